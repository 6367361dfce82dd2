# Holds a network namespace for as long as whoever asked for it lives: that one holds the other end of standard input.

# Neither the keyboard nor a terminal that is gone ends it.
trap '' HUP INT TERM
command -v ip >/dev/null || { echo 'there is no program ip: apt-get install iproute2' >&2; exit 1; }
echo ready

# A line never comes, only the end.
read -r line

# One end of the link takes the other with it. The kernel alone would keep it for as long as a connection of a killed server
# sends its last bytes into nothing, which takes minutes.
ip link delete island
