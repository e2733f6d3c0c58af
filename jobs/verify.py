"""Read every file of a store, and say what is whole, what is damaged, and which command makes it again.

example: python jobs/verify.py mini store.root=my_store verify.mend=true
result:  STORE/ itself, and a table; exit status 0 where all is whole, else 2
"""

from emo_ray.cli import main

if __name__ == "__main__":
    main("stages.verify", __doc__, ("verify",))
