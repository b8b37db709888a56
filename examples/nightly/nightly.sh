#!/bin/sh
# Takes what changed in a database since the last run into an index. For cron:
#
#     15 3 * * *  PGPASSFILE=/etc/teravec/pgpass /opt/teravec/nightly.sh
#
# or teravec-nightly.timer and .service beside this file, for systemd.
#
# The first run, or a build with the same query and --since-column, reads all rows. A run that was
# killed goes on; one that finds nothing new changes nothing. Servers take up the new version when
# they are told to reload.
set -eu
index=${INDEX:-/srv/teravec/items}
database=${DATABASE:-postgresql://teravec@db/shop}

teravec add "$index" "$database" --since-column updated_at --partition-by id --readers 8 \
    --query "select id, embedding, updated_at from items" --memory 2GiB
teravec maintain "$index" --memory 2GiB
teravec vacuum "$index" --older-than 7d
