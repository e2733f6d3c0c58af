"""Read every file of a store, and say what is whole, what is damaged, and which command makes it again.

example: python jobs/verify.py store.root=my_store verify.mend=true
result:  STORE itself; exit status 0 where it is whole, else 2
"""

from emo_ray.cli import main

if __name__ == "__main__":
    main("stages.verify", __doc__, ("verify",))
