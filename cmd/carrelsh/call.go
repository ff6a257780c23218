package main

import (
	"strings"

	"github.com/carrel-sh/carrel/session"
)

// A call is what the command line asks for.
type call struct {
	command       session.Command
	socket        string // "" is the built-in one
	help, version bool
}

// parse reads a command line as a shell does: argv[0] with a leading '-' or
// the option -l is a login; -c takes the next argument as one opaque string
// and the rest as its $0, $1 and so on. Options may be joined (-lc).
//
// sshd runs a forced command as "SHELL -c COMMAND". When that command is this
// very program, the session is what the client asked for: the variable
// SSH_ORIGINAL_COMMAND, or a login where that is empty (sshd_config(5)).
func parse(argv []string, getenv func(string) string, own func(string) bool) (call, bool) {
	var c call
	if len(argv) == 0 {
		return c, false
	}
	c.command.Login = strings.HasPrefix(argv[0], "-")
	args := argv[1:]
	for len(args) > 0 && len(args[0]) > 1 && args[0][0] == '-' && !c.command.HasText {
		option := args[0]
		args = args[1:]
		switch option {
		case "--":
			return c, len(args) == 0
		case "--login":
			c.command.Login = true
		case "--help":
			c.help = true
		case "--version":
			c.version = true
		case "--socket":
			if len(args) == 0 {
				return c, false
			}
			c.socket, args = args[0], args[1:]
		default:
			for _, letter := range option[1:] {
				switch letter {
				case 'l':
					c.command.Login = true
				case 'i': // interactive is what a terminal makes it
				case 'c':
					c.command.HasText = true
				default:
					return c, false
				}
			}
		}
	}
	if !c.command.HasText {
		return c, len(args) == 0
	}
	if len(args) > 0 && args[0] == "--" {
		args = args[1:]
	}
	if len(args) == 0 {
		return c, false
	}
	c.command.Text, c.command.Args = args[0], args[1:]
	if len(c.command.Args) == 0 && own(c.command.Text) {
		original := getenv("SSH_ORIGINAL_COMMAND")
		c.command.Text = original
		c.command.HasText = original != ""
		c.command.Login = original == ""
	}
	return c, true
}
