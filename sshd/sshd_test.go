package sshd

import (
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/carrel-sh/carrel/internal/testneed"
)

var update = flag.Bool("update", false, "rewrite the packaged file")

// TestPackagedDropIn: what is packaged is what the code writes. A file to
// embed cannot lie outside of the package.
func TestPackagedDropIn(t *testing.T) {
	const packaged = "../packaging/ssh/50-carrel.conf"
	if *update {
		if err := os.WriteFile(packaged, []byte(dropIn), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(packaged)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(dropIn, string(text)); diff != "" {
		t.Errorf("%s (-embedded +packaged), `go test ./sshd -update` mends it:\n%s", packaged, diff)
	}
}

// effective asks the real sshd about a configuration.
func effective(t *testing.T, dropIn, config, user string) Effective {
	t.Helper()
	dir := t.TempDir()
	put(t, dir, "dropin", dropIn)
	key := filepath.Join(dir, "key")
	if out, err := exec.Command(testneed.Tool(t, "ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-f", key).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	file := filepath.Join(dir, "sshd_config")
	if err := os.WriteFile(file, []byte("Include "+dir+"/dropin\n"+config), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll("/run/sshd", 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/usr/sbin/sshd", "-T", "-f", file, "-h", key, "-C", Connections(nil)[0].Spec(user))
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil || stderr.Len() > 0 {
		t.Fatalf("sshd -T: %v: %s", err, &stderr)
	}
	return ParseEffective(string(out))
}

// TestDropInTakesEffect asks the real sshd, with a configuration after the
// drop-in that opens everything: for a member all is shut, for others nothing
// is changed but the one keyword that is global.
func TestDropInTakesEffect(t *testing.T) {
	testneed.Root(t)
	const open = `
PermitUserEnvironment yes
AcceptEnv *
X11Forwarding yes
PermitTunnel yes
AllowTcpForwarding yes
GatewayPorts yes
Subsystem sftp internal-sftp
Match User daemon
	AllowTcpForwarding yes
	PermitUserRC yes
	ForceCommand none
`
	// The account daemon is in the group daemon.
	dropIn := strings.ReplaceAll(DropIn("/opt/bin/carrelsh"), "Match Group carrel", "Match Group daemon")
	shut := map[string]string{
		"forcecommand": "/opt/bin/carrelsh", "allowtcpforwarding": "no", "permitopen": "none", "permitlisten": "none",
		"gatewayports": "no", "allowstreamlocalforwarding": "no", "permittunnel": "no", "x11forwarding": "no",
		"permituserrc": "no", "allowagentforwarding": "yes", "permituserenvironment": "no", "disableforwarding": "no",
	}
	member := effective(t, dropIn, open, "daemon")
	for keyword, want := range shut {
		if got := member.Value(keyword); got != want {
			t.Errorf("member: %s %s; want %s", keyword, got, want)
		}
	}
	if got, want := strings.Join(member["acceptenv"], " "), "LANG LANGUAGE LC_* TZ COLORTERM"; got != want {
		t.Errorf("member: acceptenv %s; want %s", got, want)
	}
	if got := member.Subsystem("sftp"); got != "internal-sftp" {
		t.Errorf("subsystem sftp %q", got)
	}
	other := effective(t, dropIn, open, "bin")
	for keyword, want := range map[string]string{
		"forcecommand": "none", "allowtcpforwarding": "yes", "x11forwarding": "yes", "permituserrc": "yes", "acceptenv": "*",
		"permituserenvironment": "no",
	} {
		if got := other.Value(keyword); got != want {
			t.Errorf("other: %s %s; want %s", keyword, got, want)
		}
	}
}

func put(t *testing.T, root, file, text string) {
	t.Helper()
	path := filepath.Join(root, file)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestReadConfig(t *testing.T) {
	root := t.TempDir()
	put(t, root, ConfigPath, "# a comment\n\nInclude sshd_config.d/*.conf \"/etc/more\"\nPort 22\n  X11Forwarding=yes\nMatch\tUser a\n\tPermitTTY = no\nlonely")
	put(t, root, "/etc/ssh/sshd_config.d/b.conf", "Port 2\n")
	put(t, root, "/etc/ssh/sshd_config.d/a.conf", "Port 1\n")
	put(t, root, "/etc/ssh/sshd_config.d/ignored", "Port 3\n")
	put(t, root, "/etc/more", "UseDNS no\n")
	lines, err := ReadConfig(root)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, l := range lines {
		got = append(got, l.String()+" "+l.Keyword+"|"+l.Args)
	}
	want := []string{
		`/etc/ssh/sshd_config:3 include|sshd_config.d/*.conf "/etc/more"`,
		"/etc/ssh/sshd_config.d/a.conf:1 port|1", "/etc/ssh/sshd_config.d/b.conf:1 port|2", "/etc/more:1 usedns|no",
		"/etc/ssh/sshd_config:4 port|22", "/etc/ssh/sshd_config:5 x11forwarding|yes", "/etc/ssh/sshd_config:6 match|User a",
		"/etc/ssh/sshd_config:7 permittty|no", "/etc/ssh/sshd_config:8 lonely|",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("ReadConfig (-want +got):\n%s", diff)
	}
	put(t, root, "/etc/more", "Include /etc/more\n")
	if _, err := ReadConfig(root); err == nil {
		t.Error("a file that includes itself is read for ever, or taken")
	}
}

func TestConnections(t *testing.T) {
	match := func(args ...string) (lines []Line) {
		for _, a := range args {
			lines = append(lines, Line{Keyword: "match", Args: a})
		}
		return lines
	}
	var got []string
	for _, c := range Connections(match("User bob", "address !10.1.0.0/16,10.0.0.0/8 User bob", "Address 2001:db8::/32",
		"Host *.example.org", "LocalPort 2222,22", "LocalAddress 192.168.*.?", "Group g", "all", "Address")) {
		got = append(got, c.Spec("u"))
	}
	want := []string{
		"user=u,host=host.invalid,addr=192.0.2.1,laddr=192.0.2.2,lport=22",
		"user=u,host=host.invalid,addr=10.0.0.0,laddr=192.0.2.2,lport=22",
		"user=u,host=host.invalid,addr=2001:db8::,laddr=192.0.2.2,lport=22",
		"user=u,host=x.example.org,addr=192.0.2.1,laddr=192.0.2.2,lport=22",
		"user=u,host=host.invalid,addr=192.0.2.1,laddr=192.0.2.2,lport=2222",
		"user=u,host=host.invalid,addr=192.0.2.1,laddr=192.168.1.1,lport=22",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Connections (-want +got):\n%s", diff)
	}
	var many []string
	for i := range 100 {
		many = append(many, "Address 10.0.0."+strings.Repeat("1", i%3+1)+"/"+string(rune('0'+i%10)))
		many = append(many, "LocalPort "+strings.Repeat("1", i+1))
	}
	if n := len(Connections(match(many...))); n != maxConnections {
		t.Errorf("%d connections; want %d", n, maxConnections)
	}
}

// FuzzCutKeyword: no line makes a keyword with a blank, and sshd's own
// keywords come back whole.
func FuzzCutKeyword(f *testing.F) {
	f.Add("PermitTTY no")
	f.Add(" =x")
	f.Fuzz(func(t *testing.T, line string) {
		keyword, args := cutKeyword(line)
		if strings.ContainsAny(keyword, " \t=") || strings.TrimSpace(args) != args {
			t.Errorf("cutKeyword(%q) = %q, %q", line, keyword, args)
		}
		if keyword == "" && args != "" && !slices.Contains([]byte{'=', ' ', '\t'}, line[0]) && !strings.HasPrefix(strings.TrimSpace(line), "=") {
			t.Errorf("cutKeyword(%q) = %q, %q", line, keyword, args)
		}
	})
}
