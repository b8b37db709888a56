share: object  # a capsule; see _threads.h
