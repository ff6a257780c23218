package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/carrel-sh/carrel/config"
	"github.com/carrel-sh/carrel/sshd/doctor"
)

// Exit statuses of doctor besides the common ones.
const (
	exitWarnings = 1
	exitCritical = 2
	exitUnknown  = 69 // something could not be checked, and nothing critical was found
)

const doctorHelp = `Look for everything on this host that lets a user of Carrel run something
outside of their container, or weakens another promise of Carrel: the effective
configuration of sshd for each user, PAM, cron and at, systemd's service
managers of users, mail, the modes of Carrel's own files, the kernel.

A finding has a stable name, a severity, the evidence, and a remedy to paste.
Critical means that a user runs something on the host or reaches it through the
host; a warning, that a promise is weakened or logins fail; a notice is good to
know. Users are the accounts whose shell is carrelsh, that are in the group
"carrel", that a rule of carrel.toml(5) names, or that sshd forces into
carrelsh. Accounts that a directory service does not list must be named with
--user.

With --fix the remedies that need no judgement are applied, and what was done is
said; the findings are those that remain. The configuration of sshd is written
as /etc/ssh/sshd_config.d/50-carrel.conf, for the members of the group
"carrel", which users are added to; it is put back as it was when sshd -t refuses
it, and sshd is told to read it. Doing it again changes nothing.

EXIT STATUS

- 0: nothing was found, or notices only
- 1: warnings
- 2: something critical
- 64: the command line is not understood
- 67: the host has no such account
- 69: something could not be checked, and nothing critical was found
- 77: only root may do this

It reads, and does not try the holes: what a service does that it does not know
of is not seen.`

// doctor finds what is wrong with the host.
func (a *app) doctor() *cobra.Command {
	var o doctorOptions
	c := &cobra.Command{
		Use:     "doctor",
		Short:   "Find what lets users run something on the host",
		Long:    doctorHelp,
		Example: "  carrel doctor\n  carrel doctor --user alice --json\n  carrel doctor --fix",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if o.list {
				return a.listKinds()
			}
			if os.Geteuid() != 0 {
				return errNotRoot
			}
			return a.examine(c.Context(), o)
		},
	}
	c.Flags().StringArrayVar(&o.users, "user", nil, "look at this `account` alone; may be repeated")
	c.Flags().BoolVar(&o.fix, "fix", false, "apply the remedies that are safe")
	c.Flags().BoolVar(&o.list, "list", false, "list every finding that there is, and look at nothing")
	if err := c.RegisterFlagCompletionFunc("user", a.completeUsers); err != nil {
		panic("BUG: " + err.Error())
	}
	return a.jsonFlag(c)
}

type doctorOptions struct {
	users     []string
	fix, list bool
}

// A diagnosis is the JSON of doctor.
type diagnosis struct {
	Severity  doctor.Severity  `json:"severity"` // the worst
	Accounts  []string         `json:"accounts"` // that were looked at
	Findings  []doctor.Finding `json:"findings"`
	Fixed     []doctor.Action  `json:"fixed"`
	Unchecked []string         `json:"unchecked"`
}

// examine looks, applies remedies if that is wanted, looks again, and reports.
func (a *app) examine(ctx context.Context, o doctorOptions) error {
	g := a.gatherer()
	for _, user := range o.users {
		found, err := account(ctx, user)
		if err != nil {
			return err
		}
		g.Users = append(g.Users, found.Name)
	}
	facts, err := g.Gather(ctx)
	if err != nil {
		return &statusError{exitUnknown, err}
	}
	d := diagnosis{Findings: doctor.Diagnose(facts), Fixed: []doctor.Action{}}
	if o.fix {
		d.Fixed = append(d.Fixed, g.Fix(ctx, facts, d.Findings)...)
		if facts, err = g.Gather(ctx); err != nil {
			return &statusError{exitUnknown, err}
		}
		d.Findings = doctor.Diagnose(facts)
	}
	d.Severity = doctor.Worst(d.Findings)
	d.Accounts, d.Unchecked = []string{}, append([]string{}, facts.Unchecked...)
	for _, user := range facts.Accounts {
		d.Accounts = append(d.Accounts, user.Name)
	}
	if a.asJSON {
		d.Findings = append([]doctor.Finding{}, d.Findings...)
		err = writeJSON(a.stdout, d)
	} else {
		a.showDiagnosis(&d)
	}
	if err == nil {
		if status := d.status(); status != 0 {
			err = &statusError{status: status}
		}
	}
	return err
}

// status returns the exit status. An account whose sshd configuration is not
// known must not pass for one without findings.
func (d *diagnosis) status() int {
	failed := slices.ContainsFunc(d.Fixed, func(a doctor.Action) bool { return a.Error != "" })
	switch {
	case d.Severity == doctor.Critical:
		return exitCritical
	case len(d.Unchecked) > 0 || failed:
		return exitUnknown
	case d.Severity == doctor.Warning:
		return exitWarnings
	}
	return 0
}

// gatherer looks at this host with the paths of the command line.
func (a *app) gatherer() *doctor.Gatherer {
	loaded, err := a.loadConfig()
	if err != nil {
		loaded = config.Default()
	}
	libexec := filepath.Clean(beside(a.libexecDir, "../libexec/carrel"))
	return &doctor.Gatherer{
		Config: loaded, ConfigError: err, Carrelsh: installedShell(loaded), Carrel: beside("", "carrel"),
		Carreld: filepath.Clean(beside("", "../sbin/carreld")), LibexecDir: libexec, StateDir: a.stateDir, RunDir: a.runDir,
	}
}

// installedShell returns the login shell that accounts should have: ours, if
// the configuration knows it, or the first of the configuration's that exists,
// or ours after all.
func installedShell(c *config.Config) string {
	own := beside("", "carrelsh")
	if slices.Contains(c.LoginShells, own) {
		return own
	}
	for _, shell := range c.LoginShells {
		if _, err := os.Stat(shell); !errors.Is(err, fs.ErrNotExist) {
			return shell
		}
	}
	return own
}

// maxLines bounds what is shown of one finding; --json shows all.
const maxLines = 8

// showDiagnosis prints the findings for people.
func (a *app) showDiagnosis(d *diagnosis) {
	for _, action := range d.Fixed {
		if action.Error != "" {
			fmt.Fprintf(a.stderr, "carrel: fix %s: %s\n", action.ID, clean(action.Error))
			continue
		}
		fmt.Fprintf(a.stdout, "fixed     %s: %s\n", action.ID, clean(action.Did))
	}
	for _, f := range d.Findings {
		who := ""
		if len(f.Accounts) > 0 {
			who = " [" + clean(strings.Join(abridge(f.Accounts), ", ")) + "]"
		}
		fmt.Fprintf(a.stdout, "%-9s %s%s\n          %s.\n", f.Severity, f.ID, who, f.Title)
		for _, line := range abridge(f.Evidence) {
			fmt.Fprintf(a.stdout, "  found   %s\n", clean(line))
		}
		for _, lines := range abridge(f.Remedy) {
			for line := range strings.SplitSeq(lines, "\n") {
				fmt.Fprintf(a.stdout, "  remedy  %s\n", clean(strings.ReplaceAll(line, "\t", "    ")))
			}
		}
	}
	for _, line := range abridge(d.Unchecked) {
		fmt.Fprintf(a.stderr, "carrel: not checked: %s\n", clean(line))
	}
	if len(d.Findings) == 0 {
		fmt.Fprintf(a.stdout, "nothing found; %d accounts looked at\n", len(d.Accounts))
	}
}

// abridge returns the first lines, and how many more there are.
func abridge(lines []string) []string {
	if len(lines) <= maxLines {
		return lines
	}
	return append(slices.Clone(lines[:maxLines]), fmt.Sprintf("and %d more, which --json shows", len(lines)-maxLines))
}

// listKinds prints every kind of finding.
func (a *app) listKinds() error {
	if a.asJSON {
		return writeJSON(a.stdout, doctor.Kinds())
	}
	g := newGrid("FINDING", "WORST", "FIX", "WHAT")
	for _, k := range doctor.Kinds() {
		fix := ""
		if k.Fix {
			fix = "--fix"
		}
		g.add(k.ID, k.Worst.String(), fix, k.Title)
	}
	return g.write(a.stdout)
}
