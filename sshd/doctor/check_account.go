package doctor

import (
	"fmt"
	"slices"
	"strings"
)

// perAccount says a problem about each account for which check returns
// evidence.
func (f *Facts) perAccount(say func(problem), check func(*Account) (evidence string, severity Severity, remedy []string)) {
	for i := range f.Accounts {
		a := &f.Accounts[i]
		if evidence, severity, remedy := check(a); evidence != "" {
			say(problem{severity: severity, account: a.Name, evidence: evidence, remedy: remedy})
		}
	}
}

func checkLoginShell(f *Facts, say func(problem)) {
	f.perAccount(say, func(a *Account) (string, Severity, []string) {
		if a.Contained {
			return "", 0, nil
		}
		return fmt.Sprintf("the shell is %q, and %s", a.Shell, a.Why), 0,
			[]string{fmt.Sprintf("usermod -s %s %s", f.Carrelsh, a.Name)}
	})
}

func checkSameUID(f *Facts, say func(problem)) {
	f.perAccount(say, func(a *Account) (string, Severity, []string) {
		if len(a.SameUID) == 0 {
			return "", 0, nil
		}
		return fmt.Sprintf("uid %d is also %s", a.UID, strings.Join(a.SameUID, ", ")), 0,
			[]string{fmt.Sprintf("usermod -u $(($(getent passwd | cut -d: -f3 | awk '$1 < 60000' | sort -n | tail -1) + 1)) %s", a.SameUID[0])}
	})
}

func checkProcesses(f *Facts, say func(problem)) {
	for _, a := range f.Accounts {
		for _, process := range a.Processes {
			pid, _, _ := strings.Cut(process, " ")
			say(problem{account: a.Name, evidence: "pid " + process, remedy: []string{"kill " + pid + "   # after finding out how it came there"}})
		}
	}
}

func checkPAMEnv(f *Facts, say func(problem)) {
	for _, line := range f.PAM {
		if !strings.Contains(line.Text, "pam_env.so") || !strings.Contains(line.Text, "user_readenv=1") {
			continue
		}
		remedy := []string{fmt.Sprintf("sed -i '%ds/user_readenv=1/user_readenv=0/' %s", line.Number, line.File)}
		f.perAccount(say, func(a *Account) (string, Severity, []string) {
			_, has := a.DirFiles[".pam_environment"]
			// Without sshd's doors there are su and login, which start the shell
			// alone.
			starts := !a.Contained || slices.ContainsFunc(a.Probes, func(p Probe) bool { return f.startsHostProgram(a, &p) })
			switch {
			case !a.WritesDir && !has: // nobody inside can write it
				return "", 0, nil
			case starts:
				return line.String(), Critical, remedy
			}
			return line.String(), Warning, remedy
		})
	}
}

func checkSystemdUser(f *Facts, say func(problem)) {
	asks := slices.IndexFunc(f.PAM, func(p Place) bool { return strings.Contains(p.Text, "pam_systemd.so") })
	if asks < 0 {
		return
	}
	f.perAccount(say, func(a *Account) (string, Severity, []string) {
		if a.UserUnit == "" {
			return "", 0, nil
		}
		severity := Warning // nothing in the home that the container could have written
		if _, has := a.DirFiles[".config/systemd/user"]; a.WritesDir || has {
			severity = Critical
		}
		return fmt.Sprintf("%v, and %s is not masked", f.PAM[asks], unitName(a.UID)), severity,
			[]string{"systemctl mask --now " + unitName(a.UID)}
	})
}

func unitName(uid uint32) string { return fmt.Sprintf("user@%d.service", uid) }

func checkLinger(f *Facts, say func(problem)) {
	f.perAccount(say, func(a *Account) (string, Severity, []string) {
		if a.Lingers == "" {
			return "", 0, nil
		}
		severity := Warning
		if _, has := a.DirFiles[".config/systemd/user"]; a.WritesDir || has {
			severity = Critical
		}
		return a.Lingers + " exists", severity, []string{"rm -f " + a.Lingers + "   # or, while systemd runs: loginctl disable-linger " + a.Name}
	})
}

func checkCronJobs(f *Facts, say func(problem)) {
	for _, a := range f.Accounts {
		for _, job := range a.Cron.Jobs {
			say(problem{account: a.Name, evidence: job, remedy: []string{
				fmt.Sprintf("crontab -u %s -r   # or remove the line; the user's own cron can run inside", a.Name),
			}})
		}
	}
}

func checkAtJobs(f *Facts, say func(problem)) {
	for _, a := range f.Accounts {
		for _, job := range a.At.Jobs {
			say(problem{account: a.Name, evidence: job, remedy: []string{"rm " + job}})
		}
	}
}

func checkCronAllowed(f *Facts, say func(problem)) {
	checkAllowed(f, say, "cron", func(a *Account) string { return a.Cron.Allowed })
}

func checkAtAllowed(f *Facts, say func(problem)) {
	checkAllowed(f, say, "at", func(a *Account) string { return a.At.Allowed })
}

func checkAllowed(f *Facts, say func(problem), program string, allowed func(*Account) string) {
	f.perAccount(say, func(a *Account) (string, Severity, []string) {
		why := allowed(a)
		remedy := fmt.Sprintf("echo %s >>/etc/%s.deny", a.Name, program)
		if strings.HasPrefix(why, "/etc/"+program+".allow") {
			remedy = fmt.Sprintf("sed -i '/^%s$/d' /etc/%s.allow", a.Name, program)
		}
		return why, 0, []string{remedy}
	})
}

func checkMail(f *Facts, say func(problem)) {
	if len(f.Mailers) == 0 {
		return
	}
	f.perAccount(say, func(a *Account) (string, Severity, []string) {
		var has []string
		severity := Warning
		for _, name := range mailFiles {
			if text, ok := a.DirFiles[name]; ok {
				has = append(has, a.Dir+"/"+name)
				if strings.Contains(text, "|") {
					severity = Critical
				}
			}
		}
		if !a.WritesDir && len(has) == 0 {
			return "", 0, nil
		}
		evidence := "the host delivers mail by " + strings.Join(f.Mailers, ", ")
		var remedy []string
		for _, file := range has {
			remedy = append(remedy, fmt.Sprintf("mv %s %s.disabled", file, file))
			evidence += ", and " + file + " exists"
		}
		if a.WritesDir {
			severity = Critical
			evidence += ", and the container writes " + a.Dir
			remedy = append(remedy, `# write home = "private" in carrel.toml, or take ~/.forward and ~/.procmailrc from the mail system`,
				"# (Postfix: forward_path = and mailbox_command = in main.cf; Exim: the routers userforward and procmail)")
		}
		return evidence, severity, remedy
	})
}

func checkServices(f *Facts, say func(problem)) {
	if len(f.Accounts) == 0 {
		return
	}
	for _, s := range f.Services {
		say(problem{evidence: s.Program + " is installed: " + s.What, remedy: []string{
			"# keep the users of Carrel out of it by its own configuration, or remove it: dpkg -S " + s.Program,
		}})
	}
}

// mighty are groups of Debian and others whose members become root at will.
var mighty = []string{"root", "sudo", "wheel", "admin", "disk", "kmem", "shadow", "docker", "lxd", "incus", "incus-admin", "libvirt", "adm"}

func checkGroups(f *Facts, say func(problem)) {
	f.perAccount(say, func(a *Account) (string, Severity, []string) {
		var in, remedy []string
		for _, group := range a.Groups {
			if slices.Contains(mighty, group) {
				in = append(in, group)
				remedy = append(remedy, "gpasswd -d "+a.Name+" "+group)
			}
		}
		if len(in) == 0 {
			return "", 0, nil
		}
		return "in the group " + strings.Join(in, ", "), 0, remedy
	})
}

func checkHostHome(f *Facts, say func(problem)) {
	f.perAccount(say, func(a *Account) (string, Severity, []string) {
		if !a.WritesDir {
			return "", 0, nil
		}
		return fmt.Sprintf("home = %q, pw_dir %s", a.Home, a.Dir), 0, []string{`# write home = "private" in carrel.toml`}
	})
}

func checkHomeOwner(f *Facts, say func(problem)) {
	f.perAccount(say, func(a *Account) (string, Severity, []string) {
		return a.DirProblem, 0, []string{fmt.Sprintf("chown %s %s; chmod go-w %s", a.Name, a.Dir, a.Dir)}
	})
}
