cd /tmp/tr
nice -n 15 python try.py textures local,l2,l5,sgp .04,.08
