package main

import (
	"os"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
)

// docs writes what the build installs. It is of no use to administrators.
func (*app) docs() *cobra.Command {
	man := &cobra.Command{
		Use:   "man DIR",
		Short: "Write the manual pages of carrel",
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if err := os.MkdirAll(args[0], 0o755); err != nil {
				return err
			}
			root := c.Root()
			for _, sub := range root.Commands() {
				if sub.Name() == "completion" { // a page for each shell says little
					sub.Hidden = true
				}
			}
			return doc.GenManTree(root, &doc.GenManHeader{Section: "1", Source: "Carrel", Manual: "Carrel"}, args[0])
		},
	}
	c := group("docs", "Write documentation", man)
	c.Hidden = true
	return c
}
