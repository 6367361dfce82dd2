# Runs a server for as long as whoever asked for it lives: that one holds the other end of standard input.
# $1 is the server's directory, $2 the program that has to be there, $3 the signal that ends it at once, the rest is the
# command: other programs may run that one. Says its process id, and ends when it has ended.

directory=$1
program=$2
signal=$3
shift 3
command -v "$program" >/dev/null || { echo missing; exit 127; }

# The server keeps neither pipe open; nor does it hear the keyboard.
exec 3<&0
"$@" </dev/null >>"$directory/server.log" 2>&1 3<&- &
server=$!

# The kernel hangs up on a group whose parent is gone while one of it is stopped. The server hears that as it likes.
trap '' HUP

# Told to end in another way than by 9, it may be stopped, or too young to listen; and its children may be stopped, whom it
# kills after five seconds.
end() {
    left=80
    while [ "$signal" != 9 ] && [ "$left" != 0 ] && kill -CONT "$server" && kill -"$signal" "$server"; do
        left=$((left - 1))
        sleep 0.1
    done
    kill -9 "$server"
}

# A line never comes, only the end. The mark is made first: then nobody needs the directory any more. If it is gone
# already, `:` would end this shell there and then.
{ read -r line <&3; true >"$directory/orphaned"; end; } >/dev/null &
killer=$!
exec 3<&-

echo "$server"
wait "$server"
status=$?

kill "$killer"
wait "$killer"
if [ -e "$directory/orphaned" ]; then rm -rf "$directory"; fi
exit "$status"
