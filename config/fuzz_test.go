package config

import (
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// FuzzLoad asserts that a configuration is either refused with complaints that
// are safe to print and point into the file, or accepted; and that an accepted
// one keeps every bound and survives being written out and read back.
func FuzzLoad(f *testing.F) {
	f.Add([]byte(full))
	f.Add([]byte("rule = [ { users = [\"a\"], limits.pids = 20 } ]"))
	f.Add([]byte("[[rule]]\nusers=[\"*\"]\nallow=false\nmessage='no'\n[env]\nA=\"\"\"\nx\"\"\""))
	f.Add([]byte("[limits]\nmemory=\"2048\"\nImage=1"))
	f.Add([]byte("\x1b = 1"))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := Parse("carrel.toml", data)
		if err != nil {
			checkComplaints(t, err, strings.Count(string(data), "\n")+1)
			return
		}
		if bad := invalid(c); bad != "" {
			t.Fatalf("accepted: %s", bad)
		}
		text := encode(c)
		again, err := Parse("again.toml", []byte(text))
		if err != nil {
			t.Fatalf("written out it is refused: %v\n%s", err, text)
		}
		if diff := cmp.Diff(c, again, cmpopts.IgnoreFields(Rule{}, "Line"), cmpopts.EquateEmpty()); diff != "" {
			t.Fatalf("written out and read back (-was +is):\n%s", diff)
		}
	})
}

func checkComplaints(t *testing.T, err error, lines int) {
	problems, ok := errors.AsType[Problems](err)
	if !ok || len(problems) == 0 {
		t.Fatalf("refused without problems: %v", err)
	}
	for _, p := range problems {
		if !printable(p.Error()) {
			t.Errorf("unsafe to print: %q", p.Error())
		}
		if p.Line < 1 || p.Line > lines || p.Remedy == "" {
			t.Errorf("problem without place or remedy: %+v", p)
		}
	}
}

// invalid says which bound c breaks, or "". It repeats the bounds of
// carrel.toml(5) instead of calling what Parse calls.
func invalid(c *Config) string {
	settings := []Settings{c.Settings}
	for _, r := range c.Rules {
		if len(r.Users)+len(r.Groups) == 0 {
			return "a rule for nobody"
		}
		if !r.Refuse {
			settings = append(settings, r.Settings)
		}
	}
	for _, s := range settings {
		l := s.Limits
		switch {
		case s.Image == "" || strings.Contains(s.Image, "..") && strings.Contains(s.Image, "/../"):
			return "image " + s.Image
		case !path.IsAbs(s.Shell) || path.Clean(s.Shell) != s.Shell || slices.Contains(c.LoginShells, s.Shell):
			return "shell " + s.Shell
		case s.Home != HomePrivate && s.Home != HomeHost && s.Home != HomeNone:
			return "home " + string(s.Home)
		case s.Linger != LingerKeep && s.Linger != LingerKill:
			return "linger " + string(s.Linger)
		case l.MemoryBytes < 16<<20 || l.MemoryBytes > 1<<50 || l.SwapBytes < 0 || l.SwapBytes > 1<<50:
			return fmt.Sprintf("memory %+v", l)
		case l.CPUWeight < 1 || l.CPUWeight > 10000 || l.CPUQuotaMicros < 0 || l.CPUQuotaMicros > 1024*CPUPeriodMicros*100:
			return fmt.Sprintf("cpu %+v", l)
		case l.CPUQuotaMicros != 0 && l.CPUQuotaMicros < 1000:
			return fmt.Sprintf("quota below the kernel's 1 ms: %+v", l)
		case l.Pids < 8 || l.Pids > 4<<20:
			return fmt.Sprintf("pids %+v", l)
		}
		for name, value := range s.Env {
			if strings.HasPrefix(name, "LD_") || strings.ContainsAny(name+value, "\n\x00\x1b") {
				return "env " + name
			}
		}
	}
	ids := c.IDs
	if ids.First%65536 != 0 || ids.Count%65536 != 0 || ids.First == 0 || uint64(ids.First)+uint64(ids.Count) > 2147352576 {
		return fmt.Sprintf("ids %+v", ids)
	}
	if c.Enforce != EnforceStrict && c.Enforce != EnforceBestEffort {
		return "enforce " + string(c.Enforce)
	}
	return ""
}

// encode writes c as TOML.
func encode(c *Config) string {
	var b strings.Builder
	fmt.Fprintf(&b, "enforce = %s\nlogin_shells = %s\n", quote(string(c.Enforce)), quoteAll(c.LoginShells))
	fmt.Fprintf(&b, "ids = { first = %d, count = %d }\n", c.IDs.First, c.IDs.Count)
	encodeSettings(&b, c.Settings)
	for _, r := range c.Rules {
		fmt.Fprintf(&b, "[[rule]]\nusers = %s\ngroups = %s\nallow = %v\n", quoteAll(r.Users), quoteAll(r.Groups), !r.Refuse)
		if r.Message != "" {
			fmt.Fprintf(&b, "message = %s\n", quote(r.Message))
		}
		if !r.Refuse {
			encodeSettings(&b, r.Settings)
		}
	}
	return b.String()
}

func encodeSettings(b *strings.Builder, s Settings) {
	quota := "none"
	if s.Limits.CPUQuotaMicros != 0 {
		quota = fmt.Sprintf("%d%%", s.Limits.CPUQuotaMicros*100/CPUPeriodMicros)
	}
	fmt.Fprintf(b, "image = %s\nshell = %s\nhome = %s\n", quote(s.Image), quote(s.Shell), quote(string(s.Home)))
	motd := s.Motd
	if motd == "" {
		motd = motdNone
	}
	fmt.Fprintf(b, "motd = %s\nlast_login = %v\n", quote(motd), s.LastLogin)
	fmt.Fprintf(b, "linger = %s\nagent_forwarding = %v\n", quote(string(s.Linger)), !s.NoAgent)
	fmt.Fprintf(b, "limits = { memory = %q, swap = %q, cpu_weight = %d, cpu_quota = %q, pids = %d }\n",
		FormatSize(s.Limits.MemoryBytes), FormatSize(s.Limits.SwapBytes), s.Limits.CPUWeight, quota, s.Limits.Pids)
	for _, name := range slices.Sorted(maps.Keys(s.Env)) {
		fmt.Fprintf(b, "env.%s = %s\n", name, quote(s.Env[name]))
	}
}

// quote returns a TOML basic string; what Parse accepts is printable.
func quote(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`
}

func quoteAll(list []string) string {
	quoted := make([]string, len(list))
	for i, s := range list {
		quoted[i] = quote(s)
	}
	return "[" + strings.Join(quoted, ", ") + "]"
}
