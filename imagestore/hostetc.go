package imagestore

// etcAllowed lists what of the host's /etc goes into the image `host`: what
// programs need to work, and nothing that says who uses the host or how it is
// run. A '*' may stand in the first component only. Everybody on the host can
// read these files anyway, or they are left out.
//
// Not here on purpose: environment, hosts, hostname, resolv.conf, machine-id,
// fstab, cron*, apt (sources may carry passwords), pip.conf and npmrc (the
// same), ssh/sshd_config, pam.d, security, sudoers*, systemd, ssl/private.
var etcAllowed = []string{
	// the dynamic linker and the choice of programs
	"alternatives", "ld.so.cache", "ld.so.conf", "ld.so.conf.d",
	// shells
	"profile", "profile.d", "bash.bashrc", "bashrc", "bash_completion*", "inputrc",
	"zsh", "zshrc", "zshenv", "zprofile", "zlogin", "zlogout", "fish", "csh.*", "shells", "skel", "login.defs",
	// terminals, editors, viewers
	"terminfo", "vim", "vimrc", "virc", "nanorc", "emacs", "tmux.conf", "screenrc", "DIR_COLORS*", "GREP_COLORS",
	"manpath.config", "man_db.conf", "groff", "papersize", "mailcap", "mime.types", "magic", "magic.mime",
	// language and time
	"locale.alias", "locale.conf", "locale.gen", "default/locale", "localtime", "timezone",
	// what system this is
	"os-release", "lsb-release", "*_version", "*-release", "issue", "dpkg",
	// network names
	"services", "protocols", "rpc", "networks", "ethertypes", "host.conf", "gai.conf", "netconfig",
	// trust
	"ssl/certs", "ssl/openssl.cnf", "ca-certificates", "ca-certificates.conf", "crypto-policies",
	"pki/tls/certs", "pki/tls/cert.pem", "pki/tls/openssl.cnf", "pki/ca-trust",
	// clients
	"ssh/ssh_config", "ssh/ssh_config.d", "ssh/ssh_known_hosts", "gitconfig", "wgetrc", "lynx", "subversion", "mercurial",
	// languages and libraries
	"python3*", "perl", "java*", "ruby*", "R", "texmf", "maven", "fonts", "sgml", "xml", "glvnd", "vulkan", "OpenCL",
	"ImageMagick-*", "ghostscript", "openmpi*", "lmod", "environment-modules", "gdb", "debuginfod", "dictionaries-common",
	"xattr.conf",
}

// The accounts are those of Debian's base-passwd. No host account is among
// them; the sandbox adds the user.
const hostPasswd = `root:x:0:0:root:/root:/bin/sh
daemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin
bin:x:2:2:bin:/bin:/usr/sbin/nologin
sys:x:3:3:sys:/dev:/usr/sbin/nologin
sync:x:4:65534:sync:/bin:/bin/sync
games:x:5:60:games:/usr/games:/usr/sbin/nologin
man:x:6:12:man:/var/cache/man:/usr/sbin/nologin
lp:x:7:7:lp:/var/spool/lpd:/usr/sbin/nologin
mail:x:8:8:mail:/var/mail:/usr/sbin/nologin
news:x:9:9:news:/var/spool/news:/usr/sbin/nologin
uucp:x:10:10:uucp:/var/spool/uucp:/usr/sbin/nologin
proxy:x:13:13:proxy:/bin:/usr/sbin/nologin
www-data:x:33:33:www-data:/var/www:/usr/sbin/nologin
backup:x:34:34:backup:/var/backups:/usr/sbin/nologin
list:x:38:38:Mailing List Manager:/var/list:/usr/sbin/nologin
irc:x:39:39:ircd:/run/ircd:/usr/sbin/nologin
nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin
`

const hostGroup = `root:x:0:
daemon:x:1:
bin:x:2:
sys:x:3:
adm:x:4:
tty:x:5:
disk:x:6:
lp:x:7:
mail:x:8:
news:x:9:
uucp:x:10:
man:x:12:
proxy:x:13:
kmem:x:15:
dialout:x:20:
fax:x:21:
voice:x:22:
cdrom:x:24:
floppy:x:25:
tape:x:26:
sudo:x:27:
audio:x:29:
dip:x:30:
www-data:x:33:
backup:x:34:
operator:x:37:
list:x:38:
irc:x:39:
src:x:40:
shadow:x:42:
utmp:x:43:
video:x:44:
sasl:x:45:
plugdev:x:46:
staff:x:50:
games:x:60:
users:x:100:
nogroup:x:65534:
`

// hostNsswitch names only what a container has: files, and DNS.
const hostNsswitch = `passwd:    files
group:     files
shadow:    files
gshadow:   files
hosts:     files dns
networks:  files
protocols: files
services:  files
ethers:    files
rpc:       files
netgroup:  files
`
