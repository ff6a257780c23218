// Package deb holds what `make deb` makes the Debian package of; its tests
// build the package and install it in a chroot. test/vm installs it on a
// machine that runs systemd.
//
//	nfpm.yaml   what is in it
//	build       makes it
//	version     names it
//	scripts/    what dpkg runs: deb-postinst(5), deb-prerm(5), deb-postrm(5)
//
// There is no AppArmor profile: carreld is confined by its unit, each container
// by namespaces and a filter of its own, and what Ubuntu's
// kernel.apparmor_restrict_unprivileged_userns asks a profile of is user
// namespaces that unprivileged programs make, which none of ours does.
package deb
