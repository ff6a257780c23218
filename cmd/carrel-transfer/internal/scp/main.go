package scp

import (
	"errors"
	"fmt"
	"io"

	"golang.org/x/sys/unix"
)

const localUse = "scp: only the remote half of scp is here, for clients elsewhere: use cp, or install scp in the image\n"

// An invocation is what the command line asks for.
type invocation struct {
	sink, source bool     // -t, -f
	recursive    bool     // -r: directories too
	preserve     bool     // -p: modes and times as the source has them
	directory    bool     // -d: the target must be a directory
	paths        []string // the target, or the sources
}

// parse reads the options as getopt does. The remote halves are called by a
// client, never by a person, so any other option is refused: it may mean more
// than we know.
func parse(args []string) (invocation, error) {
	var in invocation
	for len(args) > 0 && len(args[0]) > 1 && args[0][0] == '-' {
		option := args[0]
		args = args[1:]
		if option == "--" {
			break
		}
		for _, letter := range []byte(option[1:]) {
			switch letter {
			case 't':
				in.sink = true
			case 'f':
				in.source = true
			case 'r':
				in.recursive = true
			case 'p':
				in.preserve = true
			case 'd':
				in.directory = true
			case 'q', 'v': // neither half prints anything
			default:
				return in, fmt.Errorf("unknown option -- %q", letter)
			}
		}
	}
	in.paths = args
	if in.sink && in.source {
		return in, errors.New("-t and -f exclude each other")
	}
	return in, nil
}

// Main is scp(1) as a client calls it on the other side. It returns the exit
// status: 0 if all went well, or else 1.
func Main(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	in, err := parse(args)
	switch {
	case err != nil:
		fmt.Fprintf(stderr, "scp: %v\n", err)
		return 1
	case !in.sink && !in.source:
		fmt.Fprint(stderr, localUse)
		return 1
	}
	p := newPeer(stdin, stdout)
	if in.source {
		err = (&source{peer: p, recursive: in.recursive, preserve: in.preserve}).run(in.paths)
	} else {
		mask := unix.Umask(0o077)
		unix.Umask(mask)
		err = (&sink{peer: p, recursive: in.recursive, preserve: in.preserve, mask: uint32(mask)}).run(in.paths, in.directory)
	}
	if err != nil || p.failed {
		return 1
	}
	return 0
}
