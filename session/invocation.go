package session

import "strings"

// An Invocation is what a command line of carrelsh asks for.
type Invocation struct {
	Command       Command
	Socket        string // of --socket; "" is the built-in one
	Help, Version bool
}

// ParseInvocation reads a command line as a shell does: argv[0] with a leading
// '-' or the option -l is a login; -c takes the next argument as one opaque
// string and the rest as its $0, $1 and so on. Options may be joined (-lc). It
// is false for a line that carrelsh does not know.
//
// sshd runs a forced command as "SHELL -c COMMAND". When that command is
// carrelsh itself, which own says, the session is what the client asked for:
// the variable SSH_ORIGINAL_COMMAND, or a login where that is empty
// (sshd_config(5)).
func ParseInvocation(argv []string, getenv func(string) string, own func(string) bool) (Invocation, bool) {
	var c Invocation
	if len(argv) == 0 {
		return c, false
	}
	c.Command.Login = strings.HasPrefix(argv[0], "-")
	args := argv[1:]
	for len(args) > 0 && len(args[0]) > 1 && args[0][0] == '-' && !c.Command.HasText {
		option := args[0]
		args = args[1:]
		switch option {
		case "--":
			return c, len(args) == 0
		case "--login":
			c.Command.Login = true
		case "--help":
			c.Help = true
		case "--version":
			c.Version = true
		case "--socket":
			if len(args) == 0 {
				return c, false
			}
			c.Socket, args = args[0], args[1:]
		default:
			for _, letter := range option[1:] {
				switch letter {
				case 'l':
					c.Command.Login = true
				case 'i': // interactive is what a terminal makes it
				case 'c':
					c.Command.HasText = true
				default:
					return c, false
				}
			}
		}
	}
	if !c.Command.HasText {
		return c, len(args) == 0
	}
	if len(args) > 0 && args[0] == "--" {
		args = args[1:]
	}
	if len(args) == 0 {
		return c, false
	}
	c.Command.Text, c.Command.Args = args[0], args[1:]
	if len(c.Command.Args) == 0 && own(c.Command.Text) {
		original := getenv("SSH_ORIGINAL_COMMAND")
		c.Command.Text = original
		c.Command.HasText = original != ""
		c.Command.Login = original == ""
	}
	return c, true
}
