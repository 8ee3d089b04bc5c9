# Runs one server and never lets it outlive the process that asked for it.
#
# $1 is the folder to remove if that process dies, $2 the server's log, and the rest is the command. Standard input is a
# pipe that the owner alone holds open: each line names a signal for the server and is echoed once sent. When the pipe
# ends without the server having ended, the owner is gone, however it died, and so the server is killed too.
folder=$1
log=$2
shift 2
exec 3<&0 </dev/null

"$@" >>"$log" 2>&1 3<&- &
server=$!
echo "$server"

(
    trap '' PIPE
    while read -r signal; do
        kill -s "$signal" "$server" && echo "$signal"
    done <&3
    # From here on the shell below must not end this one before the folder is gone.
    trap '' TERM
    kill -s KILL "$server"
    while kill -s 0 "$server"; do sleep 0.02; done
    rm -rf "$folder"
) 2>/dev/null &
watcher=$!
exec 3<&-

wait "$server"
code=$?
kill "$watcher" 2>/dev/null
exit "$code"
