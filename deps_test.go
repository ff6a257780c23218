package carrel

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite the golden files")

const module = "github.com/carrel-sh/carrel/"

// A listing is what `go list` tells of one package.
type listing struct {
	ImportPath, Name string
	Imports, Deps    []string
}

// layers lists what each package may import of this tree, as path.Match
// patterns; "x/..." is x and all below. A package that is not here may import
// nothing of the tree. Imports point one way, so that the privileged parts stay
// small, the pure ones testable, and no cycle of meaning grows behind the
// compiler's back.
var layers = []struct{ in, may, why string }{
	{"config", "", "what the file says is independent of what is done about it"},
	{"policy", "config", "a decision is a pure function of the request and the file"},
	{"accounts", "", "it reads the host's account database and knows of nobody else"},
	{"session", "", "plain types and a protocol: every binary links it, carrelsh first"},
	{"session/attach", "session session/attach/...", "carrelsh links it and starts in a millisecond"},
	{"session/spawn", "session session/spawn/... sandbox/cgroup/leaf", "it runs as PID 1 among the user's processes"},
	{"session/events", "session", "what happened is told and read by many, and asks nobody"},
	{"session/ask", "session", "it is linked into what runs as the user, inside"},
	{"session/admin", "session session/events", "carrel links it, and it knows of no container but as JSON"},
	{"session/keeper", "sandbox sandbox/cgroup session session/events", "it looks after the containers that run, and admits nobody"},
	{"session/broker", "accounts config imagestore policy sandbox session session/broker/...", "it joins the parts; nothing but carreld is above it"},
	{"session/broker/...", "session", "a part of the broker"},
	{"imagestore/...", "imagestore/... internal/durable internal/idmap internal/testneed", "it returns a mount list and knows of no container"},
	{"sandbox", "session internal/durable internal/failpoint internal/idmap sandbox/...", "it takes a mount list and knows of no image"},
	{"sandbox/runtime", "internal/idmap sandbox/... session", "the one package that knows libcontainer"},
	{"sandbox/...", "internal/durable internal/idmap sandbox/...", "the parts of a container"},
	{"internal/...", "internal/...", "helpers of the whole tree know nothing of it"},
	{"sshd", "", "what OpenSSH is told and says, and nothing of Carrel's parts"},
	{"sshd/doctor", "accounts config policy sandbox/cgroup sandbox/idrange sshd", "it looks at a host from outside, and starts nothing"},
	{"cmd/carrelsh", "session session/attach", "it runs as the user, in a millisecond"},
	{"cmd/carrel-init", "session session/spawn sandbox/cgroup/leaf sandbox/seccomp", "it runs as PID 1 among the user's processes"},
	{"cmd/carrel-runtime", "sandbox/runtime sandbox/spec", "it runs as root and lives for a moment"},
	{"cmd/carrel-unpack", "imagestore/... internal/idmap", "it reads what strangers wrote"},
	{"cmd/...", "...", "a binary wires what it needs; what it may link is in bans"},
	{"test/...", "...", "system tests look from outside"},
}

// bans forbid what a package or binary must never link, however indirectly.
var bans = []struct{ in, not, why string }{
	{"sandbox/...", module + "imagestore/...", "sandbox and imagestore never meet: the broker hands mounts from one to the other"},
	{"imagestore/...", module + "sandbox/...", "sandbox and imagestore never meet: the broker hands mounts from one to the other"},
	{"session", "*", "the protocol depends on the standard library alone"},
	{"policy", "os/exec", "policy is pure"},
	{"policy", "net", "policy is pure"},
	{"cmd/carrelsh", "net", "carrelsh starts in about a millisecond: net and fmt cost a third of that"},
	{"cmd/carrelsh", "fmt", "carrelsh starts in about a millisecond: net and fmt cost a third of that"},
	{"cmd/carrelsh", "os/exec", "carrelsh runs nothing on the host"},
	{"cmd/carrel-init", "net", "init is in every user's memory"},
	{"cmd/carrel-init", "os/exec", "it looks paths up and pulls in context for a fork that syscall does"},
}

// only lists packages that a single other one may import, or link.
var only = []struct{ pkg, importer, linker, why string }{
	{"github.com/opencontainers/runc/libcontainer/nsenter", "cmd/carrel-runtime", "cmd/carrel-runtime",
		"its constructor runs before main and obeys the environment"},
	{"github.com/opencontainers/runc/libcontainer", "sandbox/runtime", "cmd/carrel-runtime",
		"libcontainer promises no stable API and no small attack surface"},
	{"C", "", "", "cgo is for carrel-runtime, by way of nsenter"},
}

// badNames say nothing of what a package holds.
var badNames = []string{"base", "common", "helper", "helpers", "lib", "misc", "shared", "types", "util", "utils"}

// match is path.Match with "x/..." for x and everything below.
func match(pattern, name string) bool {
	if pattern == "..." {
		return true
	}
	if stem, ok := strings.CutSuffix(pattern, "/..."); ok {
		return name == stem || strings.HasPrefix(name, stem+"/")
	}
	ok, err := path.Match(pattern, name)
	if err != nil {
		panic("BUG: " + err.Error())
	}
	return ok
}

// violations returns what of the graph breaks the rules, one sentence each.
func violations(graph []listing) []string {
	var all []string
	say := func(format string, args ...any) { all = append(all, fmt.Sprintf(format, args...)) }
	for _, p := range graph {
		in := strings.TrimPrefix(p.ImportPath, module)
		if slices.Contains(badNames, path.Base(in)) {
			say("package %s has a name that says nothing", in)
		}
		checkLayer(p, in, say)
		for _, ban := range bans {
			for _, dep := range p.Deps {
				// "*" bans what has a dot in its first element: other modules.
				foreign := ban.not == "*" && strings.Contains(strings.SplitN(dep, "/", 2)[0], ".")
				if match(ban.in, in) && (foreign || ban.not != "*" && match(ban.not, dep)) {
					say("%s links %s: %s", in, dep, ban.why)
				}
			}
		}
		for _, o := range only {
			if slices.Contains(p.Imports, o.pkg) && in != o.importer {
				say("%s imports %s: %s", in, o.pkg, o.why)
			}
			if p.Name == "main" && slices.Contains(p.Deps, o.pkg) && in != o.linker {
				say("%s links %s: %s", in, o.pkg, o.why)
			}
		}
	}
	slices.Sort(all)
	return all
}

func checkLayer(p listing, in string, say func(string, ...any)) {
	may, why := "", "no layer in deps_test.go names it"
	for _, layer := range layers {
		if match(layer.in, in) {
			may, why = layer.may, layer.why
			break
		}
	}
	for _, imported := range p.Imports {
		name, ours := strings.CutPrefix(imported, module)
		if ours && !slices.ContainsFunc(strings.Fields(may), func(m string) bool { return match(m, name) }) {
			say("%s imports %s: %s", in, name, why)
		}
	}
}

// list runs `go list` as the binaries are built: with cgo, for nsenter.
func list(t *testing.T, args ...string) []listing {
	t.Helper()
	cmd := exec.Command("go", append([]string{"list", "-json=ImportPath,Name,Imports,Deps"}, args...)...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=1")
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, stderr.String())
	}
	var graph []listing
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p listing
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return graph
		} else if err != nil {
			t.Fatal(err)
		}
		graph = append(graph, p)
	}
}

func TestImportRules(t *testing.T) {
	graph := list(t, "./...")
	if len(graph) < 5 {
		t.Fatalf("go list shows only %d packages", len(graph))
	}
	for _, v := range violations(graph) {
		t.Error(v)
	}
}

// TestImportRulesCanFail breaks each kind of rule on purpose.
func TestImportRulesCanFail(t *testing.T) {
	tests := []struct {
		p    listing
		want string // "" for none
	}{
		{listing{ImportPath: module + "policy", Imports: []string{module + "config", "slices"}}, ""},
		{listing{ImportPath: module + "config", Imports: []string{module + "policy"}}, "config imports policy"},
		{listing{ImportPath: module + "brandnew", Imports: []string{module + "config"}}, "no layer in deps_test.go names it"},
		{listing{ImportPath: module + "sandbox/utils"}, "a name that says nothing"},
		{listing{ImportPath: module + "sandbox", Deps: []string{module + "imagestore/layer"}}, "sandbox links"},
		{listing{ImportPath: module + "session", Deps: []string{"golang.org/x/sys/unix"}}, "session links golang.org"},
		{listing{ImportPath: module + "session", Deps: []string{"vendor/golang.org/x/net", "errors"}}, ""},
		{listing{ImportPath: module + "cmd/carrelsh", Name: "main", Deps: []string{"fmt"}}, "cmd/carrelsh links fmt"},
		{listing{ImportPath: module + "cmd/carreld", Name: "main", Deps: []string{only[0].pkg}}, "cmd/carreld links"},
		{listing{ImportPath: module + "cmd/carrel-runtime", Name: "main", Deps: []string{only[0].pkg, only[1].pkg}}, ""},
		{listing{ImportPath: module + "sandbox", Imports: []string{only[1].pkg}}, "sandbox imports"},
		{listing{ImportPath: module + "sandbox/cgroup", Imports: []string{"C"}}, "sandbox/cgroup imports C"},
	}
	for _, tt := range tests {
		got := strings.Join(violations([]listing{tt.p}), "\n")
		if (tt.want == "") != (got == "") || !strings.Contains(got, tt.want) {
			t.Errorf("violations(%s) = %q; want one that says %q", tt.p.ImportPath, got, tt.want)
		}
	}
}

// TestCarrelshImports holds everything that carrelsh links to a golden list,
// so that a new import that costs start-up time is seen in review.
func TestCarrelshImports(t *testing.T) {
	linked := make(map[string]bool)
	for _, p := range list(t, "./cmd/carrelsh") {
		for _, dep := range p.Deps {
			// What the runtime is made of is the Go release's own affair.
			if !strings.HasPrefix(dep, "internal/") && !strings.HasPrefix(dep, "runtime/") {
				linked[dep] = true
			}
		}
	}
	got := strings.Join(slices.Sorted(maps.Keys(linked)), "\n") + "\n"
	golden := filepath.Join("testdata", "carrelsh.imports")
	if *update {
		if err := os.MkdirAll(filepath.Dir(golden), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("carrelsh links (-want +got), `go test . -update` accepts it:\n%s", diff)
	}
}
