package doctor

import (
	"fmt"
	"io/fs"
	"os"
	"strings"
)

func checkShells(f *Facts, say func(problem)) {
	for _, line := range f.ListedShells {
		say(problem{evidence: line.String(), remedy: []string{fmt.Sprintf("sed -i '%dd' %s", line.Number, line.File)}})
	}
}

func checkRootShell(f *Facts, say func(problem)) {
	for _, name := range f.RootShells {
		say(problem{evidence: "the shell of " + name + ", uid 0, is carrelsh", remedy: []string{"usermod -s /bin/bash " + name}})
	}
}

// checkFiles returns the check of the files of one kind.
func checkFiles(kind string) func(*Facts, func(problem)) {
	return func(f *Facts, say func(problem)) {
		for _, file := range f.Files {
			if file.Kind == kind {
				say(problem{severity: file.Severity, evidence: file.evidence(), remedy: file.remedy()})
			}
		}
	}
}

func (f *File) evidence() string {
	return fmt.Sprintf("%s, %s, belongs to uid %d and has mode %s", f.Path, f.What, f.UID, octal(f.Mode))
}

// remedy returns the commands that put the file right.
func (f *File) remedy() []string {
	var lines []string
	if f.UID != 0 {
		lines = append(lines, "chown root:root "+f.Path)
	}
	mode := "go-w,ug-s"
	if f.Want != 0 {
		mode = octal(f.Want)
	}
	return append(lines, "chmod "+mode+" "+f.Path)
}

// octal writes a mode as chmod(1) reads it.
func octal(mode fs.FileMode) string {
	n := uint32(mode.Perm())
	for bit, value := range map[fs.FileMode]uint32{os.ModeSetuid: 0o4000, os.ModeSetgid: 0o2000, os.ModeSticky: 0o1000} {
		if mode&bit != 0 {
			n |= value
		}
	}
	return fmt.Sprintf("%04o", n)
}

func checkIDs(f *Facts, say func(problem)) {
	for _, conflict := range f.IDs {
		remedy := "# " + conflict.Remedy
		if strings.HasPrefix(conflict.Source, "/etc/sub") {
			remedy = fmt.Sprintf("sed -i '%dd' %s   # or %s", conflict.Line, conflict.Source, conflict.Remedy)
		}
		say(problem{
			evidence: fmt.Sprintf("%s:%d: %q has the ids %d-%d", conflict.Source, conflict.Line, conflict.Text, conflict.First, conflict.Last),
			remedy:   []string{remedy},
		})
	}
}

func checkConfig(f *Facts, say func(problem)) {
	for _, mistake := range f.Config {
		say(problem{evidence: mistake, remedy: []string{"carrel config check"}})
	}
}

func checkKernelMissing(f *Facts, say func(problem)) {
	for _, feature := range f.Kernel.Missing {
		say(problem{evidence: "no " + feature, remedy: []string{"# boot a kernel with it: every kernel of Debian and Ubuntu since 2023 has it"}})
	}
}

// The oldest kernel that Carrel is tested on, Debian 12's.
const oldestMajor, oldestMinor = 6, 1

func checkKernelOld(f *Facts, say func(problem)) {
	k := f.Kernel
	if k.Release != "" && (k.Major < oldestMajor || k.Major == oldestMajor && k.Minor < oldestMinor) {
		say(problem{evidence: "Linux " + k.Release, remedy: []string{fmt.Sprintf("# boot Linux %d.%d or later", oldestMajor, oldestMinor)}})
	}
}

func checkUserNamespaces(f *Facts, say func(problem)) {
	for _, name := range []string{"user.max_user_namespaces", "user.max_pid_namespaces", "user.max_mnt_namespaces", "user.max_net_namespaces"} {
		if f.Kernel.Sysctl[name] == "0" {
			say(sysctlProblem(name, "0", "65536"))
		}
	}
}

// sysctlFile is where remedies put what should last.
const sysctlFile = "/etc/sysctl.d/60-carrel.conf"

func sysctlProblem(name, is, should string) problem {
	return problem{evidence: "sysctl " + name + " is " + is, remedy: []string{
		fmt.Sprintf("echo '%s = %s' >>%s; sysctl -w %s=%s", name, should, sysctlFile, name, should),
	}}
}

func checkCgroupLimits(f *Facts, say func(problem)) {
	if len(f.Kernel.NoLimit) > 0 {
		say(problem{
			evidence: "no cgroup controller for " + strings.Join(f.Kernel.NoLimit, ", "),
			remedy:   []string{"# boot with cgroup_enable=memory, or with systemd, or mount the controllers; enforce = \"best-effort\" in carrel.toml goes without"},
		})
	}
}

func checkCgroupV1(f *Facts, say func(problem)) {
	if mode := f.Kernel.CgroupMode; mode == "v1" || mode == "hybrid" {
		say(problem{evidence: "the host's cgroups are " + mode, remedy: []string{"# boot with systemd.unified_cgroup_hierarchy=1"}})
	}
}

// tiocsti is since Linux 6.2; it is on by default (CONFIG_LEGACY_TIOCSTI).
const tiocsti = "dev.tty.legacy_tiocsti"

func checkTIOCSTI(f *Facts, say func(problem)) {
	if f.Kernel.Sysctl[tiocsti] == "1" {
		say(sysctlProblem(tiocsti, "1", "0"))
	}
}

// checkCorePattern: the helper runs in the host's namespaces, as root, and
// reads what a user's process made of itself, as in CVE-2022-4415 (systemd-
// coredump) and CVE-2025-5054 (apport).
func checkCorePattern(f *Facts, say func(problem)) {
	const name = "kernel.core_pattern"
	if value := f.Kernel.Sysctl[name]; strings.HasPrefix(value, "|") {
		say(sysctlProblem(name, value, "core"))
	}
}
