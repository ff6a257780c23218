package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/carrel-sh/carrel/accounts"
	"github.com/carrel-sh/carrel/session/admin"
)

// A choice is whom a command is about: users by name or uid, the members of
// groups, or all.
type choice struct {
	all    bool
	groups []string
}

// errNobody says that a choice of groups holds nobody who has what the command
// is about. It was said already.
var errNobody = errors.New("nobody")

// flags gives c the flags of a choice. The users are its arguments.
func (s *choice) flags(c *cobra.Command, all string) {
	c.Flags().BoolVar(&s.all, "all", false, all)
	c.Flags().StringSliceVar(&s.groups, "group", nil, "the members of `GROUP`; may be given more than once")
}

// args is for cobra: somebody must be chosen, and not both some and all.
func (s *choice) args(c *cobra.Command, args []string) error {
	if (len(args)+len(s.groups) > 0) == s.all {
		return fmt.Errorf("%s: name users, or write --group or --all", c.Name())
	}
	return nil
}

// String names the chosen, as they were on the command line.
func (s *choice) String(args []string) string {
	if s.all {
		return "EVERYBODY"
	}
	whom := slices.Clone(args)
	for _, g := range s.groups {
		whom = append(whom, "group "+g)
	}
	return strings.Join(whom, ", ")
}

// optional is args for a command that is about everybody when nobody is
// chosen.
func (s *choice) optional(c *cobra.Command, args []string) error {
	if len(args)+len(s.groups) == 0 {
		s.all = true
	}
	return s.args(c, args)
}

// containers returns whom the choice is, for an operation on containers. The
// names in args are carreld's to know.
func (a *app) containers(ctx context.Context, s choice, args []string) (admin.Request, error) {
	if s.all {
		return admin.Request{All: true}, nil
	}
	return a.members(ctx, s, slices.Clone(args), func(ctx context.Context) ([]uint32, error) {
		list, err := a.client().Usage(ctx)
		var uids []uint32
		for _, c := range list {
			uids = append(uids, c.UID)
		}
		return uids, err
	})
}

// files is containers for an operation on what users have on disk. There are
// uids only: an account may be gone and its files still there.
func (a *app) files(ctx context.Context, s choice, args []string) (admin.Request, error) {
	if s.all {
		return admin.Request{All: true}, nil
	}
	uids, err := a.uids(ctx, args)
	if err != nil {
		return admin.Request{}, err
	}
	var users []string
	for _, uid := range uids {
		users = append(users, strconv.FormatUint(uint64(uid), 10))
	}
	return a.members(ctx, s, users, a.client().Known)
}

// uids returns the uids of users. One that is given as a number needs no
// account.
func (*app) uids(ctx context.Context, users []string) ([]uint32, error) {
	var uids []uint32
	var known accounts.Source
	for _, user := range users {
		if uid, err := strconv.ParseUint(user, 10, 32); err == nil {
			uids = append(uids, uint32(uid))
			continue
		}
		found, err := lookup(ctx, &known, user)
		if errors.Is(err, accounts.ErrNotFound) {
			return nil, &statusError{exitNoUser, fmt.Errorf("%s: the host has no such account", user)}
		}
		if err != nil {
			return nil, err
		}
		uids = append(uids, found.UID)
	}
	return uids, nil
}

// members adds those of the pool who are in one of the groups.
func (a *app) members(ctx context.Context, s choice, users []string, pool func(context.Context) ([]uint32, error)) (admin.Request, error) {
	if len(s.groups) == 0 {
		return admin.Request{Users: users}, nil
	}
	uids, err := pool(ctx)
	if err != nil {
		return admin.Request{}, err
	}
	var known accounts.Source
	for _, uid := range uids {
		account, err := known.Lookup(ctx, uid)
		if errors.Is(err, accounts.ErrNotFound) {
			continue // in no group any more
		}
		if err != nil {
			return admin.Request{}, err
		}
		if inGroups(account, s.groups) {
			users = append(users, strconv.FormatUint(uint64(uid), 10))
		}
	}
	if len(users) == 0 {
		fmt.Fprintf(a.stderr, "carrel: nobody of %s is concerned\n", clean(strings.Join(s.groups, ", ")))
		return admin.Request{}, errNobody
	}
	return admin.Request{Users: users}, nil
}

// inGroups says whether the account is in one of the groups, primary ones
// included, given by name or gid.
func inGroups(account accounts.Account, groups []string) bool {
	return slices.ContainsFunc(account.Groups, func(g accounts.Group) bool {
		return g.Name != "" && slices.Contains(groups, g.Name) || slices.Contains(groups, strconv.FormatUint(uint64(g.GID), 10))
	})
}

// only keeps the containers of the chosen. Unlike an operation it does not
// complain of users who have none.
func (a *app) only(ctx context.Context, s choice, args []string, list []admin.Container) ([]admin.Container, error) {
	if s.all {
		return list, nil
	}
	r, err := a.members(ctx, s, slices.Clone(args), func(context.Context) ([]uint32, error) {
		var uids []uint32
		for _, c := range list {
			uids = append(uids, c.UID)
		}
		return uids, nil
	})
	if err != nil && !errors.Is(err, errNobody) {
		return nil, err
	}
	return slices.DeleteFunc(list, func(c admin.Container) bool {
		return !slices.Contains(r.Users, c.User) && !slices.Contains(r.Users, strconv.FormatUint(uint64(c.UID), 10))
	}), nil
}

// perform has r done and says what became of each user: done makes a sentence
// of a result.
func (a *app) perform(ctx context.Context, r admin.Request, done func(admin.Result) string) error {
	list, err := a.client().Act(ctx, r)
	if err != nil {
		return err
	}
	status := 0
	var known accounts.Source
	for i, s := range list {
		if number(s.User) { // of a user without a container
			if account, err := lookup(ctx, &known, s.User); err == nil {
				s.User = account.Name
			}
		}
		user := clean(s.User)
		switch {
		case s.Error != "":
			status = max(status, exitFailed)
			fmt.Fprintf(a.stderr, "carrel: %s %s: %s\n", r.Op, user, clean(s.Error))
		case s.Ran && !a.asJSON:
			fmt.Fprintln(a.stdout, done(s))
		case !s.Ran:
			if _, err := lookup(ctx, &known, s.User); errors.Is(err, accounts.ErrNotFound) {
				list[i].Error = "no such account"
				status = exitNoUser
				fmt.Fprintf(a.stderr, "carrel: %s %s: the host has no such account\n", r.Op, user)
				continue
			}
			fmt.Fprintf(a.stderr, "carrel: %s %s: %s\n", r.Op, user, nothing(r.Op))
		}
	}
	if a.asJSON {
		if err := writeJSON(a.stdout, append([]admin.Result{}, list...)); err != nil {
			return err
		}
	}
	if status != 0 {
		return &statusError{status: status}
	}
	return nil
}

func number(s string) bool {
	_, err := strconv.ParseUint(s, 10, 32)
	return err == nil
}

// nothing says what there was not.
func nothing(op admin.Op) string {
	if op == admin.OpReset || op == admin.OpRemove {
		return "nothing of theirs is here"
	}
	return "no container was running"
}

// completeGroups offers the groups of the users who have a container.
func (a *app) completeGroups(c *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	ctx, cancel := context.WithTimeout(c.Context(), completeTime)
	defer cancel()
	list, err := a.client().Usage(ctx)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var names []string
	var known accounts.Source
	for _, container := range list {
		account, err := known.Lookup(ctx, container.UID)
		if err != nil {
			continue
		}
		for _, g := range account.Groups {
			if g.Name != "" {
				names = append(names, clean(g.Name))
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(names), cobra.ShellCompDirectiveNoFileComp
}
