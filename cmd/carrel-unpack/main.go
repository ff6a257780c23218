// Command carrel-unpack applies one image layer, whose every byte is a
// stranger's, for the image store. It is started by carreld or carrel in
// namespaces of its own and confines itself before it reads; see
// imagestore/unpack.
package main

import (
	"os"

	"github.com/carrel-sh/carrel/imagestore/unpack"
)

func main() { os.Exit(unpack.Main(os.Args[1:])) }
