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
		time.Sleep(5 * time.Second) // idle, and given back what it will give
		used, err := h.Memory()
		if err != nil {
			return err
		}
		const mib = 1 << 20
		t.row("memory of an idle container, "+step.name, fmt.Sprintf("%.2f MiB", float64(used.PSS+used.Kernel)/mib), "",
			fmt.Sprintf("%.2f PSS + %.2f kernel", float64(used.PSS)/mib, float64(used.Kernel)/mib))
	}
	return nil
}
