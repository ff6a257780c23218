package session

import "strings"

// maxEnvValue bounds one value that a user brings along.
const maxEnvValue = 4096

// FilterEnv returns the variables of env that may travel from the user's
// login into the container: TERM, LANG, LC_*, TZ, COLORTERM and what sshd says
// of the connection. Values are checked by name; what does not fit is left
// out. All else is left behind: LD_*, BASH_ENV, GODEBUG and their like never
// reach a program of ours or the user's shell by this way. Of a name that
// occurs twice the last one counts.
func FilterEnv(env []string) []string {
	var out []string
	for _, kv := range env {
		name, value, ok := strings.Cut(kv, "=")
		if !ok || len(value) > maxEnvValue || !validEnv(name, value) {
			continue
		}
		out = setEnv(out, kv, name)
		if len(out) >= maxEnv/2 {
			break
		}
	}
	return out
}

func setEnv(env []string, kv, name string) []string {
	for i, old := range env {
		if strings.HasPrefix(old, name) && len(old) > len(name) && old[len(name)] == '=' {
			env[i] = kv
			return env
		}
	}
	return append(env, kv)
}

func validEnv(name, value string) bool {
	switch name {
	case "TERM", "COLORTERM":
		// terminfo(5): a file name; ncurses before 6.4 read paths from it.
		return value != "" && len(value) <= 128 && only(value, "+-._") && value[0] != '.'
	case "LANG", "LANGUAGE":
		return only(value, "+-._@:,=")
	case "TZ":
		// A leading ':' or '/' would name a file (tzset(3)).
		return value != "" && value[0] != '/' && value[0] != ':' && only(value, "+-._/,:<>") && !strings.Contains(value, "..")
	case "SSH_CONNECTION", "SSH_CLIENT":
		return only(value, " .:%-")
	}
	if rest, ok := strings.CutPrefix(name, "LC_"); ok {
		return len(rest) > 0 && len(rest) <= 32 && only(rest, "_") && only(value, "+-._@:,=")
	}
	return false
}

// only says that s holds ASCII letters, digits and the bytes of extra alone.
func only(s, extra string) bool {
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		case strings.IndexByte(extra, c) >= 0:
		default:
			return false
		}
	}
	return true
}
