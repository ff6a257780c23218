package config

import (
	"fmt"
	"math"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// The bounds of the limits. The lower bound of memory is what a shell and a
// few tools need to start at all, that of pids Carrel's own threads and a
// pipeline; pids ends where the kernel's pid_max does.
const (
	minMemoryBytes = 16 << 20
	maxMemoryBytes = 1 << 50
	minPids        = 16
	maxPids        = 4 << 20
	maxCPUWeight   = 10_000 // cgroup-v2.rst, cpu.weight
	maxCPUPercent  = 1024 * 100
	maxEnv         = 64
	maxEnvBytes    = 4096
	maxNameBytes   = 64
	maxMessage     = 512
	maxImage       = 120
	maxPathBytes   = 4095 // PATH_MAX with its NUL
	maxIdle        = 3650 * 24 * time.Hour
)

var sizeUnits = []struct {
	name  string
	bytes int64
}{
	// "B" last: the others end in it.
	{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"TiB", 1 << 40}, {"B", 1},
}

// parseSize parses "512MiB" and returns bytes.
func parseSize(s string) (int64, *fault) {
	const remedy = `write a whole number with B, KiB, MiB, GiB or TiB, as in "2GiB"`
	for _, u := range sizeUnits {
		digits, ok := strings.CutSuffix(s, u.name)
		if !ok {
			continue
		}
		n, ok := parseWhole(digits)
		if !ok || n > math.MaxInt64/u.bytes {
			return 0, faultf(remedy, "%q is not a size", s)
		}
		return n * u.bytes, nil
	}
	return 0, faultf(remedy, "%q has none of the units", s)
}

// parseWhole parses decimal digits and nothing else: no sign, no underscore.
func parseWhole(s string) (int64, bool) {
	if strings.IndexFunc(s, func(r rune) bool { return r < '0' || r > '9' }) >= 0 {
		return 0, false
	}
	n, err := strconv.ParseInt(s, 10, 64)
	return n, err == nil
}

// sizeBetween returns a setter of *dst that insists on a range.
func sizeBetween(dst *int64, low, high int64) func(string) *fault {
	return func(s string) *fault {
		n, bad := parseSize(s)
		if bad != nil {
			return bad
		}
		if n < low || n > high {
			return faultf(fmt.Sprintf("write %s to %s", FormatSize(low), FormatSize(high)), "%q is out of range", s)
		}
		*dst = n
		return nil
	}
}

// FormatSize returns a number of bytes as the file has it, with the largest unit
// that divides it: "512MiB".
func FormatSize(n int64) string {
	best := sizeUnits[len(sizeUnits)-1]
	for _, u := range sizeUnits {
		if n != 0 && n%u.bytes == 0 && u.bytes > best.bytes {
			best = u
		}
	}
	return strconv.FormatInt(n/best.bytes, 10) + best.name
}

// integer returns a setter of *dst that insists on a range.
func integer[T int64 | uint64 | uint32](dst *T, low, high int64) func(int64) *fault {
	return func(n int64) *fault {
		if n < low || n > high {
			return faultf(fmt.Sprintf("write %d to %d", low, high), "%d is out of range", n)
		}
		*dst = T(n)
		return nil
	}
}

// The shortest time after which a container may count as idle: carrelsh says
// at most every few seconds that its user is there (session/attach).
const minIdle = 10 * time.Second

var timeUnits = map[string]time.Duration{"s": time.Second, "m": time.Minute, "h": time.Hour, "d": 24 * time.Hour}

// idleTime returns a setter for "30m", "24h" or "7d", or "never".
func idleTime(dst *time.Duration) func(string) *fault {
	return func(s string) *fault {
		if s == "never" {
			*dst = 0
			return nil
		}
		unit := timeUnits[s[max(len(s)-1, 0):]]
		n, ok := parseWhole(s[:max(len(s)-1, 0)])
		if !ok || unit == 0 || n > int64(maxIdle/unit) || time.Duration(n)*unit < minIdle {
			return faultf(`write a whole number with s, m, h or d, from "10s" to "3650d", or "never"`, "%q is not a time", s)
		}
		*dst = time.Duration(n) * unit
		return nil
	}
}

// FormatIdle returns a time as the file has it: "30m", "never".
func FormatIdle(d time.Duration) string {
	for _, unit := range []string{"d", "h", "m", "s"} {
		if u := timeUnits[unit]; d != 0 && d%u == 0 {
			return strconv.FormatInt(int64(d/u), 10) + unit
		}
	}
	if d == 0 {
		return "never"
	}
	return d.String()
}

func checkSelf(s string) *fault {
	all := []SelfCommand{SelfStatus, SelfSessions, SelfReset}
	if !slices.Contains(all, SelfCommand(s)) {
		return faultf(fmt.Sprintf("write some of %q, or [] for none", all), "%q is not known", s)
	}
	return nil
}

// blocks returns a setter of *dst that insists on a multiple of BlockSize.
func blocks(dst *uint32) func(int64) *fault {
	return func(n int64) *fault {
		if n < BlockSize || n > idRegionEnd || n%BlockSize != 0 {
			return faultf(fmt.Sprintf("write a multiple of %d, up to %d", BlockSize, idRegionEnd), "%d is not usable", n)
		}
		*dst = uint32(n)
		return nil
	}
}

// quota returns a setter for "150%" of one CPU, or "none".
func quota(dst *int64) func(string) *fault {
	return func(s string) *fault {
		if s == "none" {
			*dst = 0
			return nil
		}
		digits, ok := strings.CutSuffix(s, "%")
		n, whole := parseWhole(digits)
		if !ok || !whole || n < 1 || n > maxCPUPercent {
			return faultf(`write a percentage of one CPU, as in "150%", or "none"`, "%q is not a quota", s)
		}
		*dst = n * CPUPeriodMicros / 100
		return nil
	}
}

// oneOf returns a setter that insists on one of the given words.
func oneOf[T ~string](dst *T, words ...T) func(string) *fault {
	return func(s string) *fault {
		if !slices.Contains(words, T(s)) {
			return faultf(fmt.Sprintf("write one of %q", words), "%q is not known", s)
		}
		*dst = T(s)
		return nil
	}
}

// The names that the image store takes, with an optional tag.
var imagePattern = regexp.MustCompile(`^[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*(:[a-zA-Z0-9_][a-zA-Z0-9._-]{0,63})?$`)

func imageName(dst *string) func(string) *fault {
	return func(s string) *fault {
		if len(s) > maxImage || !imagePattern.MatchString(s) {
			return faultf(`write "host" or a name that "carrel image ls" shows`, "%q is not the name of an image", s)
		}
		*dst = s
		return nil
	}
}

func absolutePath(dst *string) func(string) *fault {
	return func(s string) *fault {
		if bad := checkPath(s); bad != nil {
			return bad
		}
		*dst = s
		return nil
	}
}

// checkPath accepts the absolute path of a file in its shortest form.
func checkPath(s string) *fault {
	if !path.IsAbs(s) || path.Clean(s) != s || s == "/" || len(s) > maxPathBytes || !printable(s) {
		return faultf(`write an absolute path without ".", ".." or "//"`, "%q is not usable as a path", s)
	}
	return nil
}

// checkName accepts what may stand for an account or a group in a rule. What
// an account may really be called is for package policy to say.
func checkName(s string) *fault {
	if s == "" || len(s) > maxNameBytes || !printable(s) || strings.ContainsAny(s, ":,/ ") {
		return faultf(`write a name from passwd(5) or group(5), or "*"`, "%q is not the name of an account or group", s)
	}
	return nil
}

func message(dst *string) func(string) *fault {
	return func(s string) *fault {
		if s == "" || len(s) > maxMessage || !printable(s) {
			return faultf(fmt.Sprintf("write one line of at most %d printable bytes", maxMessage), "the message cannot be shown")
		}
		*dst = s
		return nil
	}
}

var envPattern = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]{0,63}$`)

// Carrel sets these itself, from the account and the terminal.
var envOwn = []string{"HOME", "USER", "LOGNAME", "SHELL", "TERM", "MAIL"}

// These make a shell or the dynamic loader run something else before the user's
// own command. A start-up file of the image says the same thing visibly.
var envHooks = []string{
	"BASH_ENV", "BASHOPTS", "ENV", "GCONV_PATH", "GLIBC_TUNABLES", "IFS", "PROMPT_COMMAND", "PS4",
	"SHELLOPTS", "ZDOTDIR",
}

// checkEnv accepts a variable for the environment of every session.
func checkEnv(name, value string) *fault {
	switch {
	case !envPattern.MatchString(name):
		return faultf("write letters, digits and underscores", "not the name of a variable")
	case slices.Contains(envOwn, name):
		return faultf("remove it", "set by Carrel itself")
	case slices.Contains(envHooks, name) || strings.HasPrefix(name, "LD_") || strings.HasPrefix(name, "BASH_FUNC_"):
		return faultf("put it into a start-up file of the image", "changes what a session runs")
	case len(value) > maxEnvBytes:
		return faultf("shorten it", "the value is longer than %d bytes", maxEnvBytes)
	case !printable(value):
		return faultf("remove control characters", "the value is not printable")
	}
	return nil
}

// printable reports whether s is valid UTF-8 that moves no cursor and rings no
// bell.
func printable(s string) bool {
	return utf8.ValidString(s) && strings.IndexFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) < 0
}
