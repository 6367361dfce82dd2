# Runs a server for as long as whoever asked for it lives: that one holds the other end of standard input.
# $1 is the server's directory, $2 the program that has to be there, the rest is the command: other programs may run that
# one. Says its process id, and ends when it has ended.

directory=$1
program=$2
shift 2
command -v "$program" >/dev/null || { echo missing; exit 127; }

# The server keeps neither pipe open; nor does it hear the keyboard.
exec 3<&0
"$@" </dev/null >>"$directory/server.log" 2>&1 3<&- &
server=$!

# The kernel hangs up on a group whose parent is gone while one of it is stopped. The server hears that as it likes.
trap '' HUP

# A line never comes, only the end. The mark is made first: then nobody needs the directory any more. If it is gone
# already, `:` would end this shell there and then.
{ read -r line <&3; true >"$directory/orphaned"; kill -9 "$server"; } >/dev/null &
killer=$!
exec 3<&-

echo "$server"
wait "$server"
status=$?

kill "$killer"
wait "$killer"
if [ -e "$directory/orphaned" ]; then rm -rf "$directory"; fi
exit "$status"
