package main

import (
	"context"
	"fmt"
	"time"

	"github.com/carrel-sh/carrel/test/internal/host"
)

// memory looks at one idle container, fresh and after many logins.
func memory(ctx context.Context, t *table, h *host.Host, alice host.Account, o options) error {
	if r := h.Carrel("stop", alice.Name); r.Code != 0 {
		return fmt.Errorf("carrel stop: %v", r)
	}
	for _, step := range []struct {
		name   string
		logins int
	}{{"fresh", 1}, {fmt.Sprintf("after %d logins", o.logins), o.logins}} {
		for range step.logins {
			if err := ctx.Err(); err != nil {
				return err
			}
			if r := h.In(alice, "true", nil); r.Code != 0 {
				return fmt.Errorf("login: %v", r)
			}
		}
		if err := show(t, h, "memory of an idle container, "+step.name, 1); err != nil {
			return err
		}
	}
	// Many containers have the code of carrel-init in memory once.
	for i := 1; i < o.users; i++ {
		a, err := h.Account(fmt.Sprintf("m%d", i), "")
		if err != nil {
			return err
		}
		if r := h.In(a, "true", nil); r.Code != 0 {
			return fmt.Errorf("login of %s: %v", a.Name, r)
		}
	}
	return show(t, h, fmt.Sprintf("memory of an idle container, one of %d", o.users), o.users)
}

// show adds a row with an n-th of what all containers use.
func show(t *table, h *host.Host, name string, n int) error {
	time.Sleep(5 * time.Second) // idle, and given back what it will give
	used, err := h.Memory()
	if err != nil {
		return err
	}
	pss, kernel := float64(used.PSS)/(1<<20)/float64(n), float64(used.Kernel)/(1<<20)/float64(n)
	t.row(name, fmt.Sprintf("%.2f MiB", pss+kernel), "", fmt.Sprintf("%.2f PSS + %.2f kernel", pss, kernel))
	return nil
}
