package doctor

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/carrel-sh/carrel/test/internal/host"
)

// A canary is a file that is planted from inside, with its text. %s in the
// text is a command of the shell's that sings its name; LIBRARY is the path of
// a library that does.
type canary struct{ file, text string }

// canaries are what shells, sshd, PAM, systemd, cron, mail and desktops obey
// in a home.
var canaries = []canary{
	{".bashrc", "%s\n"}, {".bash_profile", "%s\n"}, {".bash_login", "%s\n"}, {".profile", "%s\n"}, {".bash_logout", "%s\n"},
	{".zshenv", "%s\n"}, {".zprofile", "%s\n"}, {".zshrc", "%s\n"}, {".zlogin", "%s\n"}, {".kshrc", "%s\n"}, {".mkshrc", "%s\n"},
	{".cshrc", "sh -c '%s'\n"}, {".tcshrc", "sh -c '%s'\n"}, {".login", "sh -c '%s'\n"},
	{".config/fish/config.fish", "sh -c '%s'\n"},
	{".ssh/rc", "%s\ncat >/dev/null\n"},
	{".ssh/environment", "LD_PRELOAD=LIBRARY\nBASH_ENV=HOME/.bashrc\nENV=HOME/.profile\n"},
	{".pam_environment", "LD_PRELOAD DEFAULT=LIBRARY\nBASH_ENV DEFAULT=HOME/.bashrc\n"},
	{".forward", "|HOME/sing.sh\n"}, {".procmailrc", ":0\n|HOME/sing.sh\n"}, {".mailfilter", "to \"|HOME/sing.sh\"\n"}, {".qmail", "|HOME/sing.sh\n"},
	{".config/systemd/user/canary.service", "[Service]\nExecStart=HOME/sing.sh\n[Install]\nWantedBy=default.target\n"},
	{".config/systemd/user/default.target.wants/canary.service", "[Service]\nExecStart=HOME/sing.sh\n"},
	{".config/environment.d/canary.conf", "LD_PRELOAD=LIBRARY\n"},
	{".config/autostart/canary.desktop", "[Desktop Entry]\nType=Application\nExec=HOME/sing.sh\n"},
	{".xsession", "%s\n"}, {".xsessionrc", "%s\n"}, {".xinitrc", "%s\n"}, {".xprofile", "%s\n"},
	{".shosts", "+ +\n"}, {".rhosts", "+ +\n"}, {".k5login", "mallory@EXAMPLE.ORG\n"},
	{".crontab", "@reboot HOME/sing.sh\n* * * * * HOME/sing.sh\n"},
	{"bin/sh", "#!/bin/sh\n%s\n"}, {"bin/xauth", "#!/bin/sh\n%s\n"},
}

// plantAll plants every canary from inside of the account's container.
func (m *machine) plantAll(t *testing.T, a host.Account, p *perch) {
	t.Helper()
	replace := strings.NewReplacer("LIBRARY", a.Home+"/sing.so", "HOME", a.Home)
	all := map[string]string{
		"sing.so": string(p.library(t, "library")), "sing.sh": "#!/bin/sh\n" + p.line("sing.sh") + "\n",
	}
	for _, c := range canaries {
		all[c.file] = replace.Replace(strings.ReplaceAll(c.text, "%s", p.line(c.file)))
	}
	// Options of a key, which are the user's own to write.
	key, err := os.ReadFile(a.Home + "/.ssh/authorized_keys")
	if err != nil {
		t.Fatal(err)
	}
	all[".ssh/authorized_keys"] = fmt.Sprintf("environment=%q,environment=%q,command=%q,tunnel=\"7\",permitopen=\"127.0.0.1:*\" %s",
		"LD_PRELOAD="+a.Home+"/sing.so", "PATH="+a.Home+"/bin", a.Home+"/sing.sh", key)
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	for name, text := range all {
		err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o700, Size: int64(len(text))})
		if err == nil {
			_, err = io.WriteString(w, text)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	// The schedulers of the container, if it has some, are not the host's.
	const plant = "umask 077; cd && tar -cf /tmp/before.tar . && tar -xf - && chmod 600 .ssh/authorized_keys || exit; crontab .crontab; echo ./sing.sh | at now"
	if r := m.In(a, plant, &archive); r.Err != nil || !strings.Contains(m.In(a, "ls", nil).Stdout, "sing.so") {
		t.Fatalf("plant: %v", r)
	}
	t.Cleanup(func() {
		if r := m.In(a, "cd && find . -mindepth 1 -delete; tar -xf /tmp/before.tar; rm /tmp/before.tar", nil); r.Code != 0 {
			t.Errorf("clean up: %v", r)
		}
	})
}

// enter goes in by every door, or by those few behind which canaries sing while
// the holes are open.
func (m *machine) enter(t *testing.T, a host.Account, every bool) {
	t.Helper()
	lib := a.Home + "/sing.so" // as the host sees it
	if a.Name == m.alice.Name {
		lib = m.private(a) + "/sing.so"
	}
	file := t.TempDir() + "/file"
	write(t, file, "x", 0o600)
	target := a.Name + "@127.0.0.1"
	doors := []*exec.Cmd{
		m.ssh(a, "true"),
		m.ssh(a, "true", "-Y", "-A", "-o", "SetEnv=LD_PRELOAD="+lib),
		exec.Command("su", "-", a.Name),
		m.ssh(a, ""), // a login, whose input is at its end
		m.ssh(a, "true", "-tt"),
		m.ssh(a, "true", "-Y"),
		m.ssh(a, "true", "-o", "SetEnv=BASH_ENV="+a.Home+"/.bashrc"),
		m.ssh(a, "true", "-o", "SetEnv=LC_ALL="+lib),
		m.ssh(a, "sftp", "-s"),
		exec.Command("scp", append(slices.Clone(sshOptions), file, target+":copied")...),
		exec.Command("scp", append(slices.Clone(sshOptions), "-O", file, target+":copied")...),
		exec.Command("sftp", append(append([]string{"-b", "-"}, sshOptions...), target)...),
		exec.Command("su", a.Name, "-c", "true"),
		exec.Command("su", "-", a.Name, "-c", "true"),
		exec.Command("su", "-P", a.Name, "-c", "true"),
		exec.Command("runuser", "-l", a.Name, "-c", "true"),
		m.Direct(a, "-c", "true"),
		m.Direct(a, "-l"),
	}
	if !every {
		doors = doors[:3]
	}
	for _, door := range doors {
		door.Stdin = strings.NewReader("")
		// That a door is shut is as good as that nothing sings behind it.
		if r := host.Run(door); r.Err != nil {
			t.Errorf("%q: %v", door.Args, r)
		}
	}
	// Requests that OpenSSH's client does not make.
	client := m.dial(t, a)
	for _, request := range []struct {
		name    string
		payload []byte
	}{
		{"env", ssh.Marshal(struct{ Name, Value string }{"LD_PRELOAD", lib})},
		{"x11-req", ssh.Marshal(struct {
			Single        bool
			Proto, Cookie string
			Screen        uint32
		}{false, "MIT-MAGIC-COOKIE-1", strings.Repeat("ab", 16), 0})},
		{"auth-agent-req@openssh.com", nil},
	} {
		session, err := client.NewSession()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := session.SendRequest(request.name, true, request.payload); err != nil {
			t.Errorf("%s: %v", request.name, err)
		}
		_ = session.Run("true") // the key's own command may be another
		session.Close()
	}
	deliver(t, a)
	os.Remove("/run/crond.reboot")
	for _, daemon := range []*exec.Cmd{exec.Command("/usr/sbin/cron", "-f"), exec.Command("/usr/sbin/atd", "-f")} {
		if err := daemon.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second) // the jobs of the boot run at once
		_ = daemon.Process.Kill()
		_ = daemon.Wait()
	}
}

// TestNothingRunsOnTheHost plants canaries from inside and enters by every
// door. By Debian's defaults some sing on the host, which shows that they can;
// after --fix and the remedies that it leaves to a person, none does.
func TestNothingRunsOnTheHost(t *testing.T) {
	m := setup(t)
	m.serve(t, "PermitUserEnvironment yes\nAcceptEnv *\nPermitTunnel yes\nSubsystem sftp internal-sftp")
	for _, a := range []host.Account{m.harry, m.alice} {
		t.Run(a.Name[len(a.Name)-1:], func(t *testing.T) {
			m := setup(t)
			p := m.perch(t, a)
			m.plantAll(t, a, p)
			m.openHomes(t) // or nothing of a private one is within reach
			m.enter(t, a, false)
			before, inside := p.sang(t)
			if len(before) == 0 || len(inside) == 0 {
				t.Errorf("before: %q on the host, %q inside; are the holes not open?", before, inside)
			}
			t.Logf("before: on the host %q", before)
			m.reload(t, func() { m.doctor(t, nil, "--fix") })
			shell(t, "sed -i 's/user_readenv=1/user_readenv=0/' /etc/pam.d/*")
			// The remedy for mail: the router does not look into homes.
			shell(t, `sed -i 's:file = $home/.forward:file = /etc/exim4/forward/$local_part:; s:$home/.procmailrc:/etc/exim4/procmail/$local_part:' /var/lib/exim4/config.autogenerated`)
			t.Cleanup(func() {
				shell(t, `sed -i 's:file = /etc/exim4/forward/$local_part:file = $home/.forward:' /var/lib/exim4/config.autogenerated`)
			})
			p.clear(t)
			m.enter(t, a, true)
			after, inside := p.sang(t)
			if len(after) > 0 {
				t.Errorf("on the host: %q", after)
			}
			if len(inside) == 0 {
				t.Error("no canary sang inside either: were they planted?")
			}
			t.Logf("after: inside %q", inside)
		})
	}
}

// TestStdinIsNoDoor: what sshd would run for a subsystem, and what a client may
// put into the command, is inside.
func TestStdinIsNoDoor(t *testing.T) {
	m := setup(t)
	m.serve(t, "")
	m.reload(t, func() { m.doctor(t, nil, "--fix") })
	for _, command := range []string{"exec /bin/sh", "; sh", "$(sh)", "`sh`", "-i", "\nsh"} {
		cmd := m.ssh(m.alice, command)
		cmd.Stdin = io.MultiReader(strings.NewReader("readlink /proc/self/ns/mnt\n"))
		if r := host.Run(cmd); strings.Contains(r.Stdout, m.place) {
			t.Errorf("%q: %v", command, r)
		}
	}
}
