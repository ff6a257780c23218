package config

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

var update = flag.Bool("update", false, "rewrite the golden files")

const full = `# everything
image = "debian:12"
shell = "/bin/zsh"
home = "host"
linger = "kill"
agent_forwarding = false
enforce = "best-effort"
login_shells = ["/opt/carrel/carrelsh"]

[limits]
memory = "512MiB"
swap = "1GiB"
cpu_weight = 50
cpu_quota = "150%"
pids = 100

[ids]
first = 1900019712
count = 131072

[env]
EDITOR = "vi"
LANG = "C.UTF-8"

[[rule]]
groups = ["banned"]
allow = false
message = "Ask the front desk."

[[rule]]
users = ["alice", "bob"]
image = "gpu"
linger = "keep"
[rule.limits]
memory = "8GiB"
[rule.env]
EDITOR = "emacs"

[[rule]]
users = ["*"]
`

func TestParseFull(t *testing.T) {
	got, err := Parse("carrel.toml", []byte(full))
	if err != nil {
		t.Fatal(err)
	}
	top := Settings{
		Image: "debian:12", Shell: "/bin/zsh", Home: HomeHost, Linger: LingerKill, NoAgent: true, SelfService: Default().SelfService,
		Limits: Limits{MemoryBytes: 512 << 20, SwapBytes: 1 << 30, CPUWeight: 50, CPUQuotaMicros: 150_000, Pids: 100},
		Env:    map[string]string{"EDITOR": "vi", "LANG": "C.UTF-8"},
	}
	own := top.clone()
	own.Image = "gpu"
	own.Linger = LingerKeep
	own.Limits.MemoryBytes = 8 << 30
	own.Env["EDITOR"] = "emacs"
	want := &Config{
		Settings:    top,
		Enforce:     EnforceBestEffort,
		LoginShells: []string{"/opt/carrel/carrelsh"},
		IDs:         IDRegion{First: 1900019712, Count: 131072},
		Rules: []Rule{
			{Groups: []string{"banned"}, Refuse: true, Message: "Ask the front desk.", Line: 25},
			{Users: []string{"alice", "bob"}, Settings: own, Line: 30},
			{Users: []string{"*"}, Settings: top, Line: 39},
		},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Parse (-want +got):\n%s", diff)
	}
}

func TestParseEmptyIsDefault(t *testing.T) {
	got, err := Parse("carrel.toml", []byte("# nothing\n"))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(Default(), got); diff != "" {
		t.Errorf("Parse of nothing (-default +got):\n%s", diff)
	}
	if bad := invalid(got); bad != "" {
		t.Errorf("Default() is invalid: %s", bad)
	}
}

// TestProblems compares the complaints about each file in testdata with the
// golden file beside it.
func TestProblems(t *testing.T) {
	files, err := filepath.Glob("testdata/*.toml")
	if err != nil || len(files) == 0 {
		t.Fatalf("testdata: %v, %v", files, err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			_, err = Parse("carrel.toml", data)
			if _, ok := errors.AsType[Problems](err); !ok {
				t.Fatalf("Parse = %v; want Problems", err)
			}
			golden := strings.TrimSuffix(file, ".toml") + ".golden"
			if *update {
				if err := os.WriteFile(golden, []byte(err.Error()+"\n"), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, readErr := os.ReadFile(golden)
			if readErr != nil {
				t.Fatal(readErr)
			}
			if diff := cmp.Diff(string(want), err.Error()+"\n"); diff != "" {
				t.Errorf("problems (-want +got):\n%s", diff)
			}
		})
	}
}

func TestParseRefuses(t *testing.T) {
	for _, tt := range []struct{ name, text, want string }{
		{"control characters in a name", "[env]\n\"\\u001b\" = \"x\"", `carrel.toml:2: \x1b: not the name of a variable`},
		{"line that ends too early", "image = \"host\"\n[limits\npids = 9", "carrel.toml:2: not TOML"},
		{"upper case key", `Image = "host"`, `carrel.toml:1: unknown key "Image"`},
		{"syntax", "image = \"host\"\nshell = ", "carrel.toml:2: not TOML"},
		{"duplicate key", "image = \"a\"\nimage = \"b\"", "carrel.toml:2: not TOML"},
		{"escape sequence", "image = \"\\u001b]0;x\\u0007\"", `carrel.toml:1: image: "\x1b]0;x\a" is not the name of an image`},
		{"image traversal", `image = "../x"`, `is not the name of an image`},
		{"shell relative", `shell = "bash"`, `is not usable as a path`},
		{"shell not clean", `shell = "/bin/../bin/sh"`, `is not usable as a path`},
		{"shell is the door", `shell = "/usr/bin/carrelsh"`, `is the way into the container`},
		{"size without unit", "[limits]\nmemory = \"2048\"", `carrel.toml:2: memory: "2048" has none of the units: write a whole number`},
		{"size with decimal unit", "[limits]\nmemory = \"2GB\"", `memory: "2GB" is not a size`},
		{"size negative", "[limits]\nmemory = \"-1GiB\"", `"-1GiB" is not a size`},
		{"size overflow", "[limits]\nmemory = \"9999999999TiB\"", `"9999999999TiB" is not a size`},
		{"size number", "[limits]\nmemory = 2", `"memory" has the wrong type: write a string`},
		{"size too small", "[limits]\nmemory = \"1MiB\"", `write 16MiB to 1024TiB`},
		{"weight zero", "[limits]\ncpu_weight = 0", `0 is out of range: write 1 to 10000`},
		{"quota zero", "[limits]\ncpu_quota = \"0%\"", `"0%" is not a quota`},
		{"pids string", "[limits]\npids = \"many\"", `"pids" has the wrong type: write a whole number`},
		{"ids unaligned", "[ids]\nfirst = 1879048193", `1879048193 is not usable: write a multiple of 65536`},
		{"ids too high", "[ids]\nfirst = 2147287040", `the region is too high`},
		{"ids one block", "[ids]\nfirst = 1879048192\ncount = 65536", `no room for a user`},
		{"rule names nobody", "[[rule]]\nimage = \"x\"", `carrel.toml:1: the rule names nobody`},
		{"rule of nobody", "[[rule]]\nusers = []", `the rule names nobody`},
		{"rule name with colon", "[[rule]]\nusers = [\"a:b\"]", `"a:b" is not the name of an account`},
		{"dead rule", "[[rule]]\nusers = [\"*\"]\n[[rule]]\nusers = [\"eve\"]\nallow = false", "carrel.toml:3: the rule has no effect after the one for everybody in line 1"},
		{"message without refusal", "[[rule]]\nusers = [\"eve\"]\nmessage = \"no\"", "carrel.toml:3: only a refusal has a message"},
		{"message with newline", "[[rule]]\nusers = [\"eve\"]\nallow = false\nmessage = \"a\\nb\"", "carrel.toml:4: message: the message cannot be shown"},
		{"settings of a refusal", "[[rule]]\nusers = [\"eve\"]\nallow = false\nhome = \"none\"", `carrel.toml:4: "home" has no effect`},
		{"rule not a table", "rule = 1", `"rule" has the wrong type: write tables, [[rule]]`},
		{"rules in an array", "rule = [1, 2]", `"rule" has the wrong type`},
		{"limits not a table", "limits = 1", `"limits" has the wrong type: write a table, [limits]`},
		{"list of numbers", "login_shells = [1]", `"login_shells" has the wrong type: write a list of strings`},
		{"env loader", "[env]\nLD_PRELOAD = \"/x\"", "carrel.toml:2: LD_PRELOAD: changes what a session runs"},
		{"env own", "[env]\nHOME = \"/x\"", "HOME: set by Carrel itself"},
		{"env name", "[env]\n\"A=B\" = \"x\"", `A=B: not the name of a variable`},
		{"env newline", "[env]\nA = \"x\\ny\"", "A: the value is not printable"},
		{"env long", "[env]\nA = \"" + strings.Repeat("x", 4097) + "\"", "A: the value is longer than 4096 bytes"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Parse("carrel.toml", []byte(tt.text))
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Parse(%q) = %v; want %q", tt.text, err, tt.want)
			}
		})
	}
}

// TestParseSpellings: tables, dotted keys and inline tables say the same.
func TestParseSpellings(t *testing.T) {
	spellings := []string{
		"[limits]\npids = 19\nmemory = \"1GiB\"\n[[rule]]\nusers = [\"a\"]\n[rule.limits]\npids = 20\n",
		"limits.pids = 19\nlimits.memory = \"1GiB\"\n[[rule]]\nusers = [\n  \"a\", # she\n]\nlimits = { pids = 20 }\n",
		"limits = { pids = 19, memory = '''1GiB''' }\nrule = [ { users = [\"a\"], limits.pids = 20 } ]\n",
	}
	var first *Config
	for _, text := range spellings {
		c, err := Parse("carrel.toml", []byte(text))
		if err != nil {
			t.Fatalf("Parse(%q) = %v", text, err)
		}
		c.Rules[0].Line = 0
		if first == nil {
			first = c
		}
		if diff := cmp.Diff(first, c); diff != "" {
			t.Errorf("Parse(%q) (-first +this):\n%s", text, diff)
		}
	}
}

func TestIndexLines(t *testing.T) {
	doc := "a = '''\nb = 1\n''''\n\"c.d\" = [ # ]\n  \"]\",\n]\n[e]\nf.g = { h = \"}\" }\n[[rule]]\n\n[rule.env]\nX = \"\"\"\\\"\"\"\"\n [[rule]] # two\nusers = []\n[rule.env]\nY = 1\n"
	x := indexLines(doc)
	for path, want := range map[string]int{
		"a": 1, "c.d": 4, "e": 7, "e.f.g": 8, "e.f.g.h": 8, "rule[0]": 9, "rule[0].env.X": 12,
		"rule[1]": 13, "rule[1].users": 14, "rule[1].env": 15, "rule[1].env.Y": 16, "rule[1].limits.pids": 13, "nowhere": 1,
	} {
		if got := x.at(path); got != want {
			t.Errorf("line of %s = %d; want %d", path, got, want)
		}
	}
}

func TestLoadMissingFileIsDefault(t *testing.T) {
	got, err := Load(filepath.Join(t.TempDir(), "carrel.toml"))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(Default(), got); diff != "" {
		t.Errorf("Load of no file (-default +got):\n%s", diff)
	}
}

func TestLoadInspectsTheFile(t *testing.T) {
	me := uint32(os.Geteuid())
	for _, tt := range []struct {
		name  string
		owner uint32
		setup func(t *testing.T, path string)
		want  []string // nil: accepted
	}{
		{"good", me, write("", 0o644), nil},
		{"private", me, write("", 0o600), nil},
		{"another's", me + 1, write("", 0o644), []string{fmt.Sprintf("belongs to uid %d, not to uid %d: chown %d ", me, me+1, me+1)}},
		{"group-writable", me, write("", 0o664), []string{"mode 0664 lets others than the owner write: chmod go-w "}},
		{"world-writable", me, write("", 0o602), []string{"mode 0602"}},
		{"everything at once", me + 1, write("imag = 1\nshel = 2\n", 0o666), []string{"belongs to", "mode 0666", ":1: unknown key", ":2: unknown key"}},
		{"huge", me, write(strings.Repeat("#", maxFileBytes+1), 0o644), []string{"larger than 1048576 bytes"}},
		{"as large as may be", me, write(strings.Repeat("#", maxFileBytes), 0o644), nil},
		{"symbolic link", me, func(t *testing.T, path string) {
			write("", 0o644)(t, path+".real")
			try(t, os.Symlink(path+".real", path))
		}, []string{"is a symbolic link: put the file itself here"}},
		{"hard link", me, func(t *testing.T, path string) {
			write("", 0o644)(t, path)
			try(t, os.Link(path, path+".other"))
		}, []string{"has 2 names"}},
		{"directory", me, func(t *testing.T, path string) { try(t, os.Mkdir(path, 0o755)) }, []string{"is not a regular file"}},
		{"FIFO", me, func(t *testing.T, path string) { try(t, unix.Mkfifo(path, 0o644)) }, []string{"is not a regular file"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "carrel.toml")
			tt.setup(t, path)
			c, err := LoadOwnedBy(path, tt.owner)
			if tt.want == nil {
				if err != nil || c == nil {
					t.Errorf("LoadOwnedBy = %v, %v; want a Config", c, err)
				}
				return
			}
			if c != nil || err == nil {
				t.Fatalf("LoadOwnedBy = %v, %v; want an error", c, err)
			}
			problems, ok := errors.AsType[Problems](err)
			if !ok || len(problems) != len(tt.want) {
				t.Fatalf("LoadOwnedBy = %q; want %q", err, tt.want)
			}
			for i, want := range tt.want {
				if !strings.Contains(problems[i].Error(), want) {
					t.Errorf("problem %d = %q; want %q", i, problems[i].Error(), want)
				}
			}
		})
	}
}

func TestLoadUnreadable(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	write("", 0o644)(t, file)
	if c, err := Load(filepath.Join(file, "carrel.toml")); err == nil {
		t.Errorf("Load below a file = %v; want an error", c)
	}
}

func TestIDRegionContains(t *testing.T) {
	r := Default().IDs
	for id, want := range map[uint32]bool{
		0: false, 1879048191: false, 1879048192: true, 2147352575: true, 2147352576: false, 1<<32 - 1: false,
	} {
		if got := r.Contains(id); got != want {
			t.Errorf("Contains(%d) = %v; want %v", id, got, want)
		}
	}
}

// write returns a setup that makes a file with exactly that mode.
func write(text string, mode os.FileMode) func(*testing.T, string) {
	return func(t *testing.T, path string) {
		t.Helper()
		try(t, os.WriteFile(path, []byte(text), 0o600))
		try(t, os.Chmod(path, mode))
	}
}

func try(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestIdle(t *testing.T) {
	c, err := Parse("x", []byte("idle.freeze = \"30m\"\nidle.stop = \"7d\"\nself_service = []\n[[rule]]\nusers = [\"a\"]\nidle.freeze = \"never\"\nself_service = [\"reset\"]\n"))
	if err != nil {
		t.Fatal(err)
	}
	if want := (Idle{30 * time.Minute, 7 * 24 * time.Hour}); c.Idle != want || len(c.SelfService) != 0 {
		t.Errorf("top level: %+v, %v; want %+v and no commands", c.Idle, c.SelfService, want)
	}
	r := c.Rules[0]
	if want := (Idle{0, 7 * 24 * time.Hour}); r.Idle != want || !slices.Equal(r.SelfService, []SelfCommand{SelfReset}) {
		t.Errorf("rule: %+v, %v", r.Idle, r.SelfService)
	}
	for d, want := range map[time.Duration]string{0: "never", 10 * time.Second: "10s", 90 * time.Minute: "90m", 48 * time.Hour: "2d"} {
		if got := FormatIdle(d); got != want {
			t.Errorf("FormatIdle(%d) = %q; want %q", d, got, want)
		}
	}
	for _, bad := range []string{"", "s", "1", "-1h", "9s", "1w", "1h30m", "99999999999d", "9223372036854775807s"} {
		if c, err := Parse("x", []byte(fmt.Sprintf("idle.freeze = %q", bad))); err == nil {
			t.Errorf("freeze = %q is taken as %v", bad, c.Idle.Freeze)
		}
	}
}
