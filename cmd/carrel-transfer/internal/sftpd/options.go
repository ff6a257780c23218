package sftpd

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

const usage = "usage: sftp-server [-ehR] [-d start_directory] [-f log_facility] [-l log_level]\n" +
	"\t[-P denied_requests] [-p allowed_requests] [-u umask]\n" +
	"       sftp-server -Q requests\n"

// errUsage asks for the usage text.
var errUsage = errors.New("usage")

// options are those of OpenSSH's sftp-server(8). Its zero value is a server
// without any.
type options struct {
	logs     bool   // -e: what goes wrong is told on stderr
	readOnly bool   // -R
	start    string // -d, unexpanded; "" stays where we are
	hasMask  bool   // -u
	mask     int
	permit   filter // -P, -p
	query    string // -Q
}

// parse reads the options as getopt does. What it does not know it refuses: an
// option may be there for security.
func parse(args []string) (options, error) {
	var o options
	for len(args) > 0 {
		arg := args[0]
		args = args[1:]
		if arg == "--" && len(args) == 0 {
			break
		}
		if len(arg) < 2 || arg[0] != '-' || arg == "--" {
			return o, errUsage // operands mean nothing, and options after them would not be seen
		}
		for i := 1; i < len(arg); i++ {
			if !strings.ContainsRune("dflPpQu", rune(arg[i])) {
				if err := o.flag(arg[i]); err != nil {
					return o, err
				}
				continue
			}
			value := arg[i+1:]
			if value == "" {
				if len(args) == 0 {
					return o, errUsage
				}
				value, args = args[0], args[1:]
			}
			if err := o.set(arg[i], value); err != nil {
				return o, err
			}
			break
		}
	}
	return o, o.permit.check()
}

func (o *options) flag(letter byte) error {
	switch letter {
	case 'e':
		o.logs = true
	case 'R':
		o.readOnly = true
	default: // -h too
		return errUsage
	}
	return nil
}

func (o *options) set(letter byte, value string) error {
	switch letter {
	case 'd':
		o.start = value
	case 'f', 'l': // there is no syslog inside
	case 'P', 'p':
		names := list(value)
		if len(names) == 0 {
			return fmt.Errorf("option -%c names no request", letter)
		}
		if letter == 'P' {
			o.permit.denied = names
		} else {
			o.permit.allowed = names
		}
	case 'Q':
		o.query = value
	case 'u':
		mask, err := strconv.ParseUint(value, 8, 32)
		if err != nil || mask > 0o777 {
			return fmt.Errorf("option -u: invalid umask %q", value)
		}
		o.hasMask, o.mask = true, int(mask)
	}
	return nil
}

// startDirectory expands what stands for the user in -d: %d, %u, %% and ~.
func startDirectory(text, home, name string) (string, error) {
	var b strings.Builder
	for i := 0; i < len(text); i++ {
		if text[i] != '%' {
			b.WriteByte(text[i])
			continue
		}
		i++
		switch {
		case i == len(text):
			return "", errors.New("option -d ends in %")
		case text[i] == 'd':
			b.WriteString(home)
		case text[i] == 'u':
			b.WriteString(name)
		case text[i] == '%':
			b.WriteByte('%')
		default:
			return "", fmt.Errorf("option -d: unknown %%%c", text[i])
		}
	}
	return expand(b.String())
}
