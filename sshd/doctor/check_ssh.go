package doctor

import (
	"fmt"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/carrel-sh/carrel/sshd"
)

// evidence shows the value of a keyword, where the configuration sets it, and
// for which connection it has effect if not for all.
func (f *Facts) evidence(a *Account, p *Probe, keyword string) string {
	text := fmt.Sprintf("sshd -T: %s %s", keyword, strings.Join(p.Effective[keyword], " "))
	if a.Probes[0].Value(keyword) != p.Value(keyword) {
		text += fmt.Sprintf(" (from %v)", p.From)
	}
	var places []string
	for _, line := range f.SSHD.Lines {
		if line.Keyword == keyword && strings.EqualFold(line.Args, p.Value(keyword)) {
			places = append(places, line.String())
		}
	}
	if len(places) == 0 {
		return text + ", perhaps by default"
	}
	return text + ", " + strings.Join(places, ", ")
}

// perProbe says a problem about each account for which bad is true of the
// effective configuration of some connection.
func (f *Facts) perProbe(keyword string, say func(problem), remedy []string, bad func(*Account, *Probe) (bool, Severity)) {
	for i := range f.Accounts {
		a := &f.Accounts[i]
		for j := range a.Probes {
			if is, severity := bad(a, &a.Probes[j]); is {
				say(problem{severity: severity, account: a.Name, evidence: f.evidence(a, &a.Probes[j], keyword), remedy: remedy})
				break
			}
		}
	}
}

// localFile says where lines that the drop-in does not have belong. A Match
// block ends with the file that it stands in; in sshd_config it would take in
// all that follows.
const localFile = "write to /etc/ssh/sshd_config.d/40-carrel-local.conf, and reload sshd:"

// matchRemedy is the remedy for what the drop-in sets.
func matchRemedy(lines ...string) []string {
	return []string{
		"carrel doctor --fix   # writes " + sshd.DropInPath,
		"# or " + localFile,
		"Match User USERS\n\t" + strings.Join(lines, "\n\t"),
	}
}

// forced reports whether sshd runs carrelsh whatever the client or a key asks
// for.
func (f *Facts) forced(p *Probe) bool { return f.isCarrelsh(p.Value("forcecommand")) }

func (f *Facts) isCarrelsh(command string) bool {
	return command != "" && (slices.Contains(f.Shells, command) || path.Base(command) == "carrelsh" && path.IsAbs(command))
}

// startsHostProgram reports whether sshd starts a dynamically linked program
// of the host for the account: the shell behind ~/.ssh/rc and /etc/ssh/sshrc,
// and the one that runs xauth (do_rc_files in session.c), or a login shell that
// is not carrelsh. carrelsh itself is static, and the environment is nothing
// to it.
func (f *Facts) startsHostProgram(a *Account, p *Probe) bool {
	return !a.Contained || f.SSHD.RC || p.Value("x11forwarding") == "yes" || p.Value("permituserrc") == "yes" && p.Value("forcecommand") == "none"
}

func checkTCP(f *Facts, say func(problem)) {
	remedy := matchRemedy("AllowTcpForwarding no", "PermitOpen none", "PermitListen none")
	f.perProbe("allowtcpforwarding", say, remedy, func(_ *Account, p *Probe) (bool, Severity) {
		value := p.Value("allowtcpforwarding")
		local := value != "no" && value != "remote" && p.Value("permitopen") != "none"
		remote := value != "no" && value != "local" && p.Value("permitlisten") != "none"
		return (local || remote) && p.Value("disableforwarding") != "yes", 0
	})
}

func checkStream(f *Facts, say func(problem)) {
	remedy := matchRemedy("AllowStreamLocalForwarding no")
	f.perProbe("allowstreamlocalforwarding", say, remedy, func(_ *Account, p *Probe) (bool, Severity) {
		return p.Value("allowstreamlocalforwarding") != "no" && p.Value("disableforwarding") != "yes", 0
	})
}

// checkTunnel does not trust DisableForwarding, which left tunnels open before
// OpenSSH 10.4.
func checkTunnel(f *Facts, say func(problem)) {
	f.perProbe("permittunnel", say, matchRemedy("PermitTunnel no"), func(_ *Account, p *Probe) (bool, Severity) {
		return p.Value("permittunnel") != "no", 0
	})
}

// checkX11 does not trust DisableForwarding, which left X11 open before
// OpenSSH 10.0 (CVE-2025-32728).
func checkX11(f *Facts, say func(problem)) {
	f.perProbe("x11forwarding", say, matchRemedy("X11Forwarding no"), func(_ *Account, p *Probe) (bool, Severity) {
		return p.Value("x11forwarding") != "no", 0
	})
}

// checkSFTP: a forced command turns the subsystem into an ordinary command,
// unless it is internal-sftp itself (do_exec in session.c).
func checkSFTP(f *Facts, say func(problem)) {
	isInternal := func(command string) bool {
		return command == "internal-sftp" || strings.HasPrefix(command, "internal-sftp ")
	}
	remedy := append(matchRemedy("ForceCommand "+f.Carrelsh),
		"# or, for the whole host: Subsystem sftp /usr/lib/openssh/sftp-server")
	f.perProbe("subsystem", say, remedy, func(_ *Account, p *Probe) (bool, Severity) {
		return isInternal(p.Subsystem("sftp")) && p.Value("forcecommand") == "none", 0
	})
	f.perProbe("forcecommand", say, remedy, func(_ *Account, p *Probe) (bool, Severity) {
		return isInternal(p.Value("forcecommand")), 0
	})
}

// checkUserRC: sshd runs "SHELL -c '/bin/sh .ssh/rc'" by a shell of the host
// (do_rc_files in session.c). With carrelsh that ends in the container, but
// the host's /bin/sh has run with the user's environment.
func checkUserRC(f *Facts, say func(problem)) {
	f.perProbe("permituserrc", say, matchRemedy("PermitUserRC no"), func(a *Account, p *Probe) (bool, Severity) {
		severity := Warning
		if !a.Contained {
			severity = Critical
		}
		return p.Value("permituserrc") == "yes" && p.Value("forcecommand") == "none", severity
	})
}

// harmful are variables by which a program is made to run something else.
var harmful = []string{
	"LD_PRELOAD", "LD_LIBRARY_PATH", "LD_AUDIT", "GCONV_PATH", "BASH_ENV", "ENV", "SHELLOPTS", "PS4", "IFS", "PATH",
	"PERL5OPT", "PYTHONPATH", "NODE_OPTIONS",
}

// acceptsHarmful reports whether one of the patterns is for a harmful variable.
func acceptsHarmful(patterns []string) bool {
	for _, list := range patterns {
		for _, pattern := range strings.FieldsFunc(list, func(r rune) bool { return r == ' ' || r == ',' }) {
			for _, name := range harmful {
				if ok, err := filepath.Match(pattern, name); ok || err != nil {
					return true
				}
			}
		}
	}
	return false
}

func checkUserEnvironment(f *Facts, say func(problem)) {
	remedy := []string{
		"carrel doctor --fix   # writes " + sshd.DropInPath,
		"# or " + localFile, "PermitUserEnvironment no",
		"# if it remains, a line before the Include of " + sshd.ConfigPath + " says otherwise: remove that",
	}
	f.perProbe("permituserenvironment", say, remedy, func(a *Account, p *Probe) (bool, Severity) {
		value := p.Value("permituserenvironment")
		_, has := a.DirFiles[".ssh/environment"]
		severity := Warning
		if (a.WritesDir || has) && f.startsHostProgram(a, p) {
			severity = Critical
		}
		return value == "yes" || value != "no" && acceptsHarmful([]string{value}), severity
	})
}

func checkAcceptEnv(f *Facts, say func(problem)) {
	f.perProbe("acceptenv", say, matchRemedy("AcceptEnv LANG LANGUAGE LC_* TZ COLORTERM"), func(a *Account, p *Probe) (bool, Severity) {
		severity := Warning
		if f.startsHostProgram(a, p) {
			severity = Critical
		}
		return acceptsHarmful(p.Effective["acceptenv"]), severity
	})
}

func checkStale(f *Facts, say func(problem)) {
	if f.SSHD.Stale != "" {
		say(problem{evidence: f.SSHD.Stale + " is younger than " + pidPath, remedy: []string{"kill -HUP $(cat " + pidPath + ")   # or: systemctl reload ssh"}})
	}
}

func checkSystemRC(f *Facts, say func(problem)) {
	if !f.SSHD.RC {
		return
	}
	for _, a := range f.Accounts {
		say(problem{
			account: a.Name, evidence: "/etc/ssh/sshrc exists",
			remedy: []string{"mv /etc/ssh/sshrc /etc/ssh/sshrc.disabled   # or make sure that it reads and runs nothing of the user's"},
		})
	}
}

func checkKeys(f *Facts, say func(problem)) {
	remedy := []string{
		"install -d -m 0755 /etc/ssh/authorized_keys   # and write each user's keys to /etc/ssh/authorized_keys/NAME, mode 0644",
		"# " + localFile,
		"Match User USERS\n\tAuthorizedKeysFile /etc/ssh/authorized_keys/%u",
	}
	f.perProbe("authorizedkeysfile", say, remedy, func(a *Account, p *Probe) (bool, Severity) {
		inside := slices.ContainsFunc(KeyFiles(p.Effective, a.Name, a.Dir, a.UID), func(file string) bool {
			return a.WritesDir && below(file, a.Dir) || below(file, f.StateDir)
		})
		return p.Value("pubkeyauthentication") != "no" && inside, 0
	})
}

// KeyFiles returns the files that sshd would read keys from; see
// AuthorizedKeysFile in sshd_config(5).
func KeyFiles(e sshd.Effective, user, home string, uid uint32) []string {
	var files []string
	expand := strings.NewReplacer("%%", "%", "%h", home, "%u", user, "%U", fmt.Sprint(uid))
	for _, pattern := range strings.Fields(e.Value("authorizedkeysfile")) {
		if pattern == "none" {
			continue
		}
		file := expand.Replace(pattern)
		if !path.IsAbs(file) {
			file = path.Join(home, file)
		}
		files = append(files, file)
	}
	return files
}

// below reports whether file is dir or in it.
func below(file, dir string) bool {
	return dir != "" && (file == dir || strings.HasPrefix(file, strings.TrimSuffix(dir, "/")+"/"))
}

func checkKeyCommand(f *Facts, say func(problem)) {
	for i := range f.Accounts {
		a := &f.Accounts[i]
		if !slices.ContainsFunc(a.Probes, func(p Probe) bool { return f.forced(&p) }) {
			continue
		}
		for _, key := range a.Keys {
			say(problem{account: a.Name, evidence: key.String(), remedy: []string{
				"# remove the key, or, if Subsystem sftp is not internal-sftp, " + localFile,
				"Match User USERS\n\tForceCommand none",
			}})
		}
	}
}

func checkTrustFiles(f *Facts, say func(problem)) {
	remedy := []string{
		"# " + localFile,
		"Match User USERS\n\tHostbasedAuthentication no\n\tKerberosAuthentication no\n\tGSSAPIAuthentication no",
	}
	for _, keyword := range []string{"hostbasedauthentication", "kerberosauthentication", "gssapiauthentication"} {
		f.perProbe(keyword, say, remedy, func(a *Account, p *Probe) (bool, Severity) {
			ignored := keyword == "hostbasedauthentication" && p.Value("ignorerhosts") == "yes"
			return a.WritesDir && p.Value(keyword) == "yes" && !ignored, 0
		})
	}
}

// checkAgent: sshd makes the agent's socket on the host and carrelsh relays to
// it, so both must allow it, or there is a socket for nobody.
func checkAgent(f *Facts, say func(problem)) {
	f.perAccount(say, func(a *Account) (string, Severity, []string) {
		for i := range a.Probes {
			p := &a.Probes[i]
			allowed := p.Value("allowagentforwarding") != "no" && p.Value("disableforwarding") != "yes"
			if a.Home == "" || allowed == a.Agent { // whom the policy refuses has no session
				continue
			}
			says, should := "refuses it", "no"
			if a.Agent {
				says, should = "allows it", "yes"
			}
			lines := "AllowAgentForwarding " + should
			if a.Agent && p.Value("disableforwarding") == "yes" {
				lines += "\n\tDisableForwarding no"
			}
			return f.evidence(a, p, "allowagentforwarding") + ", and carrel.toml " + says, 0,
				[]string{"# " + localFile, "Match User USERS\n\t" + lines}
		}
		return "", 0, nil
	})
}

func checkIdle(f *Facts, say func(problem)) {
	remedy := []string{
		"# " + localFile,
		"Match User USERS\n\tUnusedConnectionTimeout 5m",
	}
	f.perProbe("unusedconnectiontimeout", say, remedy, func(_ *Account, p *Probe) (bool, Severity) {
		return p.Value("unusedconnectiontimeout") == "none", 0 // "" before OpenSSH 9.2
	})
}
