package policy

import (
	"fmt"
	"maps"
	"path"
	"slices"

	"github.com/carrel-sh/carrel/config"
)

// A Policy is a compiled configuration. It is safe for concurrent use.
type Policy struct {
	config *config.Config
	rules  []rule
	env    []string // for accounts that no rule names
}

// A rule is a config.Rule with its lists as sets.
type rule struct {
	*config.Rule
	users, groups map[string]bool
	env           []string
}

// New compiles c, which config has checked and which nobody changes any more.
func New(c *config.Config) *Policy {
	p := &Policy{config: c, env: environ(c.Env)}
	for i := range c.Rules {
		r := &c.Rules[i]
		p.rules = append(p.rules, rule{Rule: r, users: set(r.Users), groups: set(r.Groups), env: environ(r.Env)})
	}
	return p
}

func set(names []string) map[string]bool {
	s := make(map[string]bool, len(names))
	for _, name := range names {
		s[name] = true
	}
	return s
}

// environ returns "NAME=value" entries in the order of names.
func environ(env map[string]string) []string {
	var list []string
	for _, name := range slices.Sorted(maps.Keys(env)) {
		list = append(list, name+"="+env[name])
	}
	return list
}

// A Request asks for a session of an account.
type Request struct {
	Account Account
}

// An Account is a login of the host, as its account database has it. The UID is
// the one that the kernel reported.
type Account struct {
	Name   string  `json:"name"`
	UID    uint32  `json:"uid"`
	GID    uint32  `json:"gid"`    // primary
	Groups []Group `json:"groups"` // primary and supplementary
	Home   string  `json:"home"`   // pw_dir, unchecked
	Shell  string  `json:"shell"`  // pw_shell; one of config's LoginShells admits
}

// A Group is a group of an account.
type Group struct {
	Name string `json:"name"` // may be "" when only the number is known
	GID  uint32 `json:"gid"`
}

// A Decision admits an account. The zero value admits nobody: it has no image.
type Decision struct {
	Image string      `json:"image"`
	Shell string      `json:"shell"` // absolute path inside the container
	Home  config.Home `json:"home"`
	// HomePath is where the home directory appears inside the container, and
	// $HOME: the account's pw_dir if that can be a mount point, otherwise
	// /home/NAME; "/" without a home. When Home is config.HomeHost it is the
	// directory of the host too. It is absolute and clean, but links in it are
	// for the one who mounts to refuse, and so is a wrong owner.
	HomePath string        `json:"home_path"`
	Limits   config.Limits `json:"limits"`
	// KillRest ends with a session everything that was started in it.
	KillRest bool `json:"kill_rest"`
	// Motd is a file of the host that a login on a terminal shows, "" for none.
	Motd string `json:"motd"`
	// LastLogin has such a login show when and from where the one before was.
	LastLogin bool `json:"last_login"`
	Agent     bool `json:"agent"` // ssh -A reaches the user's agent
	// Idle says when the container is frozen and stopped for want of use.
	Idle config.Idle `json:"idle"`
	// SelfService are the commands about their container that users may give.
	// The slice is shared; nobody changes it.
	SelfService []config.SelfCommand `json:"self_service"`
	// BestEffort lets the container start when the host cannot enforce a limit.
	BestEffort bool `json:"best_effort"`
	// Env holds "NAME=value" entries for every session, sorted. They win over
	// what the client asks for. The slice is the caller's, and never nil.
	Env  []string `json:"env"`
	Rule int      `json:"rule"` // index of the rule that matched; NoRule: none did
}

// NoRule is the Rule of a Decision or Refusal that no rule made.
const NoRule = -1

// Decide admits the account or refuses it with a *Refusal.
func (p *Policy) Decide(req Request) (Decision, error) {
	d, refusal := p.decide(req.Account, nil)
	if refusal != nil {
		return Decision{}, refusal
	}
	return d, nil
}

// decide is Decide and Explain. It hands each rule that it looked at, and why
// it matched or not, to trace, which may be nil.
func (p *Policy) decide(a Account, trace func(i int, matched bool, why string)) (Decision, *Refusal) {
	if refusal := p.checkAccount(a); refusal != nil {
		return Decision{}, refusal
	}
	for i := range p.rules {
		r := &p.rules[i]
		why, matched := r.match(a)
		if trace != nil {
			trace(i, matched, why)
		}
		if !matched {
			continue
		}
		if r.Refuse {
			return Decision{}, refuseByRule(a, i, r.Rule)
		}
		return p.admit(a, i, r.Settings, r.env)
	}
	if !slices.Contains(p.config.LoginShells, a.Shell) {
		return Decision{}, refuseShell(a, p.config.LoginShells)
	}
	return p.admit(a, NoRule, p.config.Settings, p.env)
}

// match reports whether the rule names the account, and by what.
func (r *rule) match(a Account) (why string, matched bool) {
	switch {
	case r.users["*"] || r.groups["*"]:
		return "names everybody", true
	case r.users[a.Name]:
		return fmt.Sprintf("names the user %q", a.Name), true
	}
	for _, g := range a.Groups {
		// An unknown name is no name: the list cannot hold "" either.
		if r.groups[g.Name] {
			return fmt.Sprintf("names the group %q", g.Name), true
		}
	}
	return "names neither the user nor a group of theirs", false
}

// admit makes the decision out of settings.
func (p *Policy) admit(a Account, index int, s config.Settings, env []string) (Decision, *Refusal) {
	home, bad := homePath(a, s.Home)
	if bad != nil {
		bad.Rule = index
		return Decision{}, bad
	}
	return Decision{
		Image:      s.Image,
		Shell:      s.Shell,
		Home:       s.Home,
		KillRest:   s.Linger == config.LingerKill,
		Motd:       s.Motd,
		LastLogin:  s.LastLogin,
		Agent:      !s.NoAgent,
		Idle:       s.Idle,
		HomePath:   home,
		Limits:     s.Limits,
		BestEffort: p.config.Enforce == config.EnforceBestEffort,
		Env:        append([]string{}, env...),
		Rule:       index,

		SelfService: s.SelfService,
	}, nil
}

// homePath returns the place of the home directory inside the container. A
// pw_dir that cannot be one is refused when the host's directory is wanted, and
// replaced otherwise.
func homePath(a Account, kind config.Home) (string, *Refusal) {
	if kind == config.HomeNone {
		return "/", nil
	}
	cause := unusableHome(a.Home)
	switch {
	case cause == "":
		return a.Home, nil
	case kind == config.HomeHost:
		return "", refuseHome(a, cause)
	}
	return path.Join("/home", a.Name), nil
}
