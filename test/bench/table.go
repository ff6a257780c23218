package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"time"
	"unicode/utf8"
)

// A table is what bench prints, as Markdown.
type table struct{ rows [][4]string }

func (t *table) row(what, median, p90, ratio string) {
	t.rows = append(t.rows, [4]string{what, median, p90, ratio})
}

// block adds measured subjects, each with its ratio to the reference's median.
func (t *table) block(title string, subjects []*subject, reference int) {
	t.row("*"+title+"*", "", "", "× "+subjects[reference].name)
	base := quantile(subjects[reference].times, 50)
	for _, s := range subjects {
		m := quantile(s.times, 50)
		t.row(s.name, milliseconds(m), milliseconds(quantile(s.times, 90)), fmt.Sprintf("%.2f", float64(m)/float64(base)))
	}
}

func quantile(sorted []time.Duration, percent int) time.Duration {
	return sorted[(len(sorted)-1)*percent/100]
}

func milliseconds(d time.Duration) string {
	return fmt.Sprintf("%.2f ms", float64(d.Microseconds())/1000)
}

func (t *table) markdown() string {
	rows := append([][4]string{{"", "median", "p90", "ratio"}, {"-", "-", "-", "-"}}, t.rows...)
	var width [4]int
	for _, row := range rows {
		for i, cell := range row {
			width[i] = max(width[i], utf8.RuneCountInString(cell))
		}
	}
	var b strings.Builder
	for _, row := range rows {
		for i, cell := range row {
			fill := " "
			if cell == "-" {
				fill = "-"
			}
			b.WriteString("| " + cell + strings.Repeat(fill, width[i]-utf8.RuneCountInString(cell)) + " ")
		}
		b.WriteString("|\n")
	}
	return b.String()
}

// describe names the kind of machine, not the machine.
func describe() (string, error) {
	info, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return "", err
	}
	model := "unknown CPU"
	for line := range bytes.Lines(info) {
		if name, ok := bytes.CutPrefix(line, []byte("model name")); ok {
			model = strings.TrimSpace(strings.TrimLeft(string(name), "\t :"))
			break
		}
	}
	var uts syscall.Utsname
	if err := syscall.Uname(&uts); err != nil {
		return "", os.NewSyscallError("uname", err)
	}
	var release []byte
	for _, c := range uts.Release {
		if c == 0 || c == '-' {
			break // what follows is the builder's own name for it
		}
		release = append(release, byte(c))
	}
	return fmt.Sprintf("%d × %s, Linux %s, %s; %s, %s, %s", runtime.NumCPU(), model, release, cgroups(),
		version("crun"), version("runc"), version("podman")), nil
}

func cgroups() string {
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil {
		return "cgroup v2"
	}
	if _, err := os.Stat("/sys/fs/cgroup/unified"); err == nil {
		return "cgroup v1 (hybrid)"
	}
	return "cgroup v1"
}

func version(tool string) string {
	out, err := exec.Command(tool, "--version").Output()
	if err != nil {
		return tool
	}
	line, _, _ := strings.Cut(string(out), "\n")
	return strings.Replace(line, " version ", " ", 1)
}
