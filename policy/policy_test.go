package policy

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/carrel-sh/carrel/config"
)

var update = flag.Bool("update", false, "rewrite the golden files")

const rules = `
login_shells = ["/usr/bin/carrelsh"]
env.LANG = "C.UTF-8"

[[rule]]
users = ["eve"]
groups = ["banned"]
allow = false
message = "Your project has ended."

[[rule]]
users = ["mallory"]
allow = false

[[rule]]
groups = ["staff"]
image = "debian:12"
home = "host"
[rule.limits]
memory = "8GiB"
cpu_quota = "150%"
[rule.env]
EDITOR = "vi"

[[rule]]
users = ["bob", "eve"]
home = "none"
shell = "/bin/sh"
linger = "kill"
agent_forwarding = false
self_service = ["status"]
[rule.idle]
freeze = "30m"
stop = "1d"
`

func parse(t testing.TB, text string) *config.Config {
	t.Helper()
	c, err := config.Parse("carrel.toml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// account returns an ordinary one whose shell is carrelsh.
func account(name string, groups ...string) Account {
	a := Account{
		Name: name, UID: 1000, GID: 1000, Groups: []Group{{Name: name, GID: 1000}},
		Home: "/home/" + name, Shell: "/usr/bin/carrelsh",
	}
	for i, g := range groups {
		a.Groups = append(a.Groups, Group{Name: g, GID: uint32(2000 + i)})
	}
	return a
}

// with returns a changed copy.
func with(a Account, change func(*Account)) Account {
	change(&a)
	return a
}

func TestDecideAdmits(t *testing.T) {
	p := New(parse(t, rules))
	limits := config.Default().Limits
	large := limits
	large.MemoryBytes, large.CPUQuotaMicros = 8<<30, 150_000
	self := config.Default().SelfService
	plain := Decision{
		SelfService: self,
		Image:       "host", Shell: "/bin/bash", Home: config.HomePrivate, HomePath: "/home/alice", Agent: true,
		Limits: limits, Env: []string{"LANG=C.UTF-8"}, Rule: NoRule,
	}
	staff := Decision{
		SelfService: self,
		Image:       "debian:12", Shell: "/bin/bash", Home: config.HomeHost, HomePath: "/home/alice", Agent: true,
		Limits: large, Env: []string{"EDITOR=vi", "LANG=C.UTF-8"}, Rule: 2,
	}
	bob := Decision{
		SelfService: []config.SelfCommand{config.SelfStatus}, Idle: config.Idle{Freeze: 30 * time.Minute, Stop: 24 * time.Hour},
		Image: "host", Shell: "/bin/sh", Home: config.HomeNone, HomePath: "/", KillRest: true,
		Limits: limits, Env: []string{"LANG=C.UTF-8"}, Rule: 3,
	}
	for _, tt := range []struct {
		name    string
		account Account
		want    Decision
	}{
		{"by shell", account("alice"), plain},
		{"by group", account("alice", "staff"), staff},
		{"by group, whatever the shell", with(account("alice", "staff"), func(a *Account) { a.Shell = "/bin/bash" }), staff},
		{"by name", account("bob"), bob},
		{"first match wins", account("bob", "staff"), homeAt(staff, "/home/bob")},
		{"group without a name matches nothing", account("alice", ""), plain},
		{"name of a group is not a user", with(account("staff"), func(a *Account) { a.Groups = nil }), homeAt(plain, "/home/staff")},
		{"pw_dir that is no home", with(account("alice"), func(a *Account) { a.Home = "/etc" }), plain},
		{"no pw_dir", with(account("alice"), func(a *Account) { a.Home = "" }), plain},
		{"home of a site", with(account("alice"), func(a *Account) { a.Home = "/gpfs/u/alice" }), homeAt(plain, "/gpfs/u/alice")},
		{"uid above 65535", with(account("alice"), func(a *Account) { a.UID = 1_700_000_001 }), plain},
		{"trust account", with(account("host$"), func(a *Account) { a.Home = "/" }), homeAt(plain, "/home/host$")},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := p.Decide(Request{Account: tt.account})
			if err != nil {
				t.Fatalf("Decide = %v", err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("Decide (-want +got):\n%s", diff)
			}
		})
	}
}

func homeAt(d Decision, home string) Decision {
	d.HomePath = home
	return d
}

func TestDecideBestEffort(t *testing.T) {
	for _, enforce := range []string{"strict", "best-effort"} {
		d, err := New(parse(t, fmt.Sprintf("enforce = %q", enforce))).Decide(Request{Account: account("alice")})
		if want := enforce == "best-effort"; err != nil || d.BestEffort != want {
			t.Errorf("enforce = %s: BestEffort = %v, %v; want %v", enforce, d.BestEffort, err, want)
		}
	}
}

func TestDecideRefuses(t *testing.T) {
	p := New(parse(t, rules))
	open := New(parse(t, "[[rule]]\nusers = [\"*\"]"))
	for _, tt := range []struct {
		name    string
		account Account
		want    Refusal
	}{
		{"by user", account("eve"), Refusal{CodeRule, 0, "Your project has ended.", `refuse "eve" (uid 1000): rule 1 in line 5 says so`}},
		{"by group", account("bob", "banned"), Refusal{CodeRule, 0, "Your project has ended.", `refuse "bob" (uid 1000): rule 1 in line 5 says so`}},
		{"without a message", account("mallory"), Refusal{CodeRule, 1, messages[CodeRule], `refuse "mallory" (uid 1000): rule 2 in line 11 says so`}},
		{
			"by shell", with(account("alice"), func(a *Account) { a.Shell = "/bin/bash" }),
			Refusal{CodeShell, NoRule, messages[CodeShell], `refuse "alice" (uid 1000): no rule names the account and its shell "/bin/bash" is not /usr/bin/carrelsh`},
		},
		{
			"home that is not one", with(account("alice", "staff"), func(a *Account) { a.Home = "/etc/x" }),
			Refusal{CodeHome, 2, messages[CodeHome], `refuse "alice" (uid 1000): home = "host" and the directory "/etc/x" lies in /etc`},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(&tt.want, refusal(t, p, tt.account)); diff != "" {
				t.Errorf("Decide (-want +got):\n%s", diff)
			}
			// The twin: without these rules the account is admitted.
			if d, err := open.Decide(Request{Account: tt.account}); err != nil || d.Image == "" {
				t.Errorf("without the rule: Decide = %+v, %v; want admitted", d, err)
			}
		})
	}
}

// refusal returns what Decide refuses with, and insists on the zero Decision.
func refusal(t *testing.T, p *Policy, a Account) *Refusal {
	t.Helper()
	d, err := p.Decide(Request{Account: a})
	r, ok := errors.AsType[*Refusal](err)
	if !ok {
		t.Fatalf("Decide(%+v) = %+v, %v; want a *Refusal", a, d, err)
	}
	if diff := cmp.Diff(Decision{}, d); diff != "" {
		t.Errorf("Decide refused with a decision (-want +got):\n%s", diff)
	}
	return r
}

// TestDecideIDs has the ids that no rule can admit, and the ones beside them.
func TestDecideIDs(t *testing.T) {
	p := New(parse(t, "[[rule]]\nusers = [\"*\"]"))
	first, end := uint32(1879048192), uint32(2147352576)
	for id, want := range map[uint32]Code{
		0: CodeRoot, 1: "", 999: "", 1000: "", 65533: "", 65534: CodeNobody, 65535: "", 65536: "",
		first - 1: "", first: CodeManagedID, end - 1: CodeManagedID, end: "",
		1<<31 - 1: "", 1 << 31: "", 1<<32 - 3: "", 1<<32 - 2: CodeReservedID, 1<<32 - 1: CodeReservedID,
	} {
		a := with(account("alice"), func(a *Account) { a.UID = id })
		checkCode(t, p, fmt.Sprintf("uid %d", id), a, want)
		if want != "" {
			want = CodeGroup
		}
		checkCode(t, p, fmt.Sprintf("gid %d", id), with(account("alice"), func(a *Account) { a.GID = id }), want)
	}
	for gid, want := range map[uint32]Code{0: "", 65534: "", first: CodeGroup, end: "", 1<<32 - 1: CodeGroup} {
		a := account("alice")
		a.Groups = append(a.Groups, Group{"more", gid})
		checkCode(t, p, fmt.Sprintf("supplementary gid %d", gid), a, want)
	}
}

// checkCode decides and compares the code, "" for admitted.
func checkCode(t *testing.T, p *Policy, what string, a Account, want Code) {
	t.Helper()
	if want != "" {
		if got := refusal(t, p, a).Code; got != want {
			t.Errorf("%s: refused for %q; want %q", what, got, want)
		}
		return
	}
	if _, err := p.Decide(Request{Account: a}); err != nil {
		t.Errorf("%s: Decide = %v; want admitted", what, err)
	}
}

// TestDecideNames has names as in CVE-2017-1000082 and CVE-2025-61984: digits,
// options, paths, control characters.
func TestDecideNames(t *testing.T) {
	p := New(parse(t, "[[rule]]\nusers = [\"*\"]"))
	for _, name := range []string{"alice", "_apt", "a", "a.b-c", `dom\user`, "user@realm.example", "host$", "x" + strings.Repeat("y", 63)} {
		checkCode(t, p, fmt.Sprintf("name %q", name), with(account("x"), func(a *Account) { a.Name = name }), "")
	}
	for _, name := range []string{
		"", "0", "1e3", "-rf", "..", "../../etc", "a/b", "a b", "a:b", "a\n", "\na", "a\x00", "a\x1b[2J", "%n%u", "$(id)", "`id`",
		"a$b", "$", "Alice", "DOM\\user", "älice", "аlice", "😀", "a\u200b", "*", strings.Repeat("a", 65), strings.Repeat("a", 256),
	} {
		checkCode(t, p, fmt.Sprintf("name %q", name), with(account("x"), func(a *Account) { a.Name = name }), CodeName)
	}
}

// TestHostHome has the pw_dirs that must not become mounts of the host.
func TestHostHome(t *testing.T) {
	p := New(parse(t, "home = \"host\""))
	for _, home := range []string{"/home/alice", "/srv/home/alice", "/var/home/alice", "/var/lib/alice", "/u/a b", "/etcetera", "/home/älice"} {
		checkCode(t, p, fmt.Sprintf("home %q", home), with(account("alice"), func(a *Account) { a.Home = home }), "")
	}
	for _, home := range []string{
		"", "/", "//", "/.", "home", "./home", "/home", "/home/", "/home/../root", "/home//alice", "/root", "/root/x", "/etc", "/etc/x",
		"/proc/self/root/home", "/dev/shm", "/sys", "/usr/local", "/bin", "/run/user", "/tmp/alice", "/var", "/var/lib", "/var/lib/carrel",
		"/var/lib/carrel/homes/1000", "/var/spool/cron", "/nonexistent", "/home/a\nb", "/home/a\x00b", "/home/\x1b", "/home/\xff",
		"/" + strings.Repeat("x", 4096),
	} {
		checkCode(t, p, fmt.Sprintf("home %q", home), with(account("alice"), func(a *Account) { a.Home = home }), CodeHome)
	}
}

// TestRuleNamesAreWhole: no prefix, no case folding, no pattern (CVE-2026-48785
// and its kind).
func TestRuleNamesAreWhole(t *testing.T) {
	p := New(parse(t, "[[rule]]\nusers = [\"adm\", \"a*\", \"a.c\"]\ngroups = [\"staff\"]\n"))
	notByRule := func(a Account) {
		t.Helper()
		d, err := p.Decide(Request{Account: a})
		if err != nil || d.Rule != NoRule {
			t.Errorf("Decide(%q in %v) = rule %d, %v; want no rule", a.Name, a.Groups, d.Rule, err)
		}
	}
	for _, name := range []string{"ad", "admin", "a", "abc", "adm$", "staff"} {
		notByRule(with(account(name), func(a *Account) { a.Groups = []Group{{"users", 100}} }))
	}
	for _, group := range []string{"staf", "staffs", "Staff", "staff ", "adm", "*"} {
		notByRule(account("alice", group))
	}
	if d, err := p.Decide(Request{Account: account("adm")}); err != nil || d.Rule != 0 {
		t.Errorf("Decide(adm) = rule %d, %v; want rule 0", d.Rule, err)
	}
}

func TestNoLoginShellsAdmitNobody(t *testing.T) {
	p := New(parse(t, "login_shells = []"))
	for _, shell := range []string{"", "/usr/bin/carrelsh", "/bin/sh"} {
		checkCode(t, p, fmt.Sprintf("shell %q", shell), with(account("alice"), func(a *Account) { a.Shell = shell }), CodeShell)
	}
}

// TestDecisionsShareNothing: a caller that changes its decision changes no
// other, and the policy is safe for concurrent use.
func TestDecisionsShareNothing(t *testing.T) {
	p := New(parse(t, rules))
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 100 {
				d, err := p.Decide(Request{Account: account("alice", "staff")})
				if err != nil || d.Env[0] != "EDITOR=vi" {
					t.Errorf("Decide = %+v, %v", d, err)
					return
				}
				d.Env[0] = "EDITOR=changed"
			}
		})
	}
	wg.Wait()
}

// TestEveryCodeHasAMessage, one printable sentence.
func TestEveryCodeHasAMessage(t *testing.T) {
	for _, code := range []Code{CodeRoot, CodeNobody, CodeReservedID, CodeManagedID, CodeName, CodeGroup, CodeHome, CodeRule, CodeShell} {
		if m := messages[code]; !strings.HasSuffix(m, ".") || !printable(m) {
			t.Errorf("message of %q = %q; want a printable sentence", code, m)
		}
	}
}

// TestExplainAgreesWithDecide on every account that the other tests use.
func TestExplainAgreesWithDecide(t *testing.T) {
	p := New(parse(t, rules))
	for _, name := range []string{"alice", "bob", "eve", "mallory", "-rf", "a\x1b[2Jb"} {
		for _, group := range []string{"staff", "banned", "x", "\x1b]0;\a"} {
			for _, uid := range []uint32{0, 1000, 65534, 1879048192} {
				a := with(account(name, group), func(a *Account) { a.UID = uid })
				d, err := p.Decide(Request{Account: a})
				e := p.Explain(Request{Account: a})
				if (err == nil) != (e.Decision != nil) || (err == nil) == (e.Refusal != nil) {
					t.Fatalf("Decide(%+v) = %v but Explain = %+v", a, err, e)
				}
				if err == nil && !cmp.Equal(d, *e.Decision) || err != nil && !cmp.Equal(err, error(e.Refusal)) {
					t.Errorf("Decide(%+v) = %+v, %v; Explain = %+v", a, d, err, e)
				}
				if text := e.String(); !printable(strings.ReplaceAll(text, "\n", "")) {
					t.Errorf("Explain(%+v) is not printable: %q", a, text)
				}
			}
		}
	}
}

func TestExplainText(t *testing.T) {
	p := New(parse(t, rules))
	for name, a := range map[string]Account{
		"default": account("alice"),
		"staff":   account("bob", "staff", ""),
		"refused": account("eve"),
		"root":    with(account("root"), func(a *Account) { a.UID, a.Groups = 0, nil }),
	} {
		t.Run(name, func(t *testing.T) {
			e := p.Explain(Request{Account: a})
			golden(t, name+".txt", []byte(e.String()))
			text, err := json.MarshalIndent(e, "", "  ")
			if err != nil {
				t.Fatal(err)
			}
			golden(t, name+".json", append(text, '\n'))
		})
	}
}

// golden compares got with testdata/name, or rewrites that with -update.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s (-want +got):\n%s", name, diff)
	}
}

// FuzzDecide asserts that whoever is admitted has a sane name, is not root, and
// gets absolute paths and printable text; and that a refusal can be shown.
func FuzzDecide(f *testing.F) {
	p := New(parse(f, rules))
	f.Add("alice", uint32(1000), uint32(1000), "staff", "/home/alice", "/usr/bin/carrelsh")
	f.Add("..", uint32(0), uint32(0), "", "/", "")
	f.Fuzz(func(t *testing.T, name string, uid, gid uint32, group, home, shell string) {
		a := Account{Name: name, UID: uid, GID: gid, Groups: []Group{{group, gid}}, Home: home, Shell: shell}
		d, err := p.Decide(Request{Account: a})
		if err != nil {
			r, ok := errors.AsType[*Refusal](err)
			if !ok || r.Message == "" || !printable(r.Message) || !printable(r.Cause) {
				t.Fatalf("refusal is not fit to show: %q", err)
			}
			return
		}
		if uid == 0 || gid == 0 || !namePattern.MatchString(name) || strings.ContainsAny(d.HomePath, "\x00\n") {
			t.Fatalf("admitted %+v: %+v", a, d)
		}
		if !filepath.IsAbs(d.HomePath) || filepath.Clean(d.HomePath) != d.HomePath || strings.HasPrefix(d.HomePath+"/", "/etc/") {
			t.Fatalf("home %q", d.HomePath)
		}
		if d.Image == "" || d.Limits.MemoryBytes <= 0 || d.Limits.Pids <= 0 {
			t.Fatalf("incomplete: %+v", d)
		}
	})
}

func BenchmarkDecide(b *testing.B) {
	p := New(parse(b, rules))
	req := Request{Account: account("alice", "staff")}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := p.Decide(req); err != nil {
			b.Fatal(err)
		}
	}
}
