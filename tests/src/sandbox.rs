//! Private network and mount namespaces that vanish with the test that made them.
//!
//! A [`Sandbox`] is two hosts joined by veth pairs: the one under test, in which the body runs,
//! and its *peer*, the rest of the world. Each has its own interfaces, `/sys`, `/sys/fs/bpf` and
//! `/run`; everything else of the file system is the machine's. Namespaces belong to threads
//! (namespaces(7)), so many sandboxes may run at once, and whatever they hold is gone when the
//! last thread and process in them ends, panic or not.
//!
//! The links are silent: no ARP, no neighbour discovery, no router solicitation, no multicast
//! report. A packet that a test sees is a packet that it sent, or an answer to one.

use std::{
    cell::Cell,
    fs, io,
    marker::PhantomData,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ops::{Deref, DerefMut},
    os::fd::AsRawFd as _,
    panic::resume_unwind,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use anyhow::{Context as _, Result, bail};
use nix::{
    mount::{MsFlags, mount},
    net::if_::if_nametoindex,
    sched::{CloneFlags, setns, unshare},
};

use crate::traffic::sys;

/// Two hosts of one test. It stays on the thread it was made for: that thread is inside.
#[derive(Debug)]
pub struct Sandbox {
    here: Host,
    peer: Host,
    pairs: Cell<u8>,
    _not_send: PhantomData<*const ()>,
}

impl Sandbox {
    /// Runs `body` on a thread of its own inside a new sandbox. A panic of `body` goes on in the
    /// caller.
    ///
    /// # Errors
    /// Where the namespaces cannot be made: this needs CAP_SYS_ADMIN and CAP_NET_ADMIN (see
    /// [`require_root!`](crate::require_root)).
    pub fn run<T: Send>(body: impl FnOnce(&Self) -> T + Send) -> Result<T> {
        on_thread(move || {
            let peer = thread::spawn(Host::enter_new).join().unwrap_or_else(|panic| resume_unwind(panic))?;
            let here = Host::enter_new()?;
            Ok(body(&Self { here, peer, pairs: Cell::new(0), _not_send: PhantomData }))
        })
    }

    /// The host that the body runs in, for threads of its own.
    pub fn here(&self) -> &Host {
        &self.here
    }

    /// The other host, for threads that run beside the body.
    pub fn peer_host(&self) -> &Host {
        &self.peer
    }

    /// Makes one more host, such as a container of the one under test. Nothing joins it to others yet:
    /// `ip link add … netns` takes its [`Host::path`].
    ///
    /// # Errors
    /// As [`Sandbox::run`].
    pub fn one_more(&self) -> Result<Host> {
        thread::spawn(Host::enter_new).join().unwrap_or_else(|panic| resume_unwind(panic))
    }

    /// Runs `body` in the peer, on a thread of its own; a panic goes on here.
    ///
    /// # Errors
    /// Where the thread cannot enter the peer.
    pub fn peer<T: Send>(&self, body: impl FnOnce() -> T + Send) -> Result<T> {
        self.peer.run(body)
    }

    /// Joins the hosts by a veth pair: `name` here, `peer_name` there. See [`Veth`] for the
    /// addresses. The first pair of a sandbox is both hosts' default route.
    ///
    /// # Errors
    /// What `ip` says.
    pub fn veth(&self, name: &str, peer_name: &str) -> Result<Veth> {
        let index = self.pairs.get();
        self.pairs.set(index.checked_add(1).context("a sandbox has at most 255 veth pairs")?);
        let [here, peer] = [Self::end(name, index, 1), Self::end(peer_name, index, 2)];
        ip(&format!(
            "link add {name} address {} type veth peer name {peer_name} address {} netns /proc/{}/fd/{}\n",
            here.mac,
            peer.mac,
            std::process::id(),
            self.peer.net.as_raw_fd()
        ))?;
        // Both up first: addresses and routes then find a carrier.
        let up = |name: &str| ip(&format!("link set {name} arp off\nlink set {name} up\n"));
        up(name)?;
        self.peer(|| up(peer_name))??;
        let ifindex = configure(&here, &peer, index == 0)?;
        let peer_ifindex = self.peer(|| configure(&peer, &here, index == 0))??;
        Ok(Veth { here: End { ifindex, ..here }, peer: End { ifindex: peer_ifindex, ..peer } })
    }

    /// Gives both ends of a pair a queue for each CPU, as network cards have: a flood does not crowd
    /// out what others send from other CPUs. Before programs are attached.
    ///
    /// # Errors
    /// What `ethtool` says.
    pub fn widen(&self, veth: &Veth) -> Result<()> {
        let cpus = thread::available_parallelism().map_or(1, std::num::NonZero::get);
        self.command(&format!("ethtool -L {} rx {cpus}", veth.here.name))?;
        self.peer_command(&format!("ethtool -L {} rx {cpus}", veth.peer.name)).map(drop)
    }

    fn end(name: &str, pair: u8, side: u8) -> End {
        End {
            name: name.to_owned(),
            ifindex: 0,
            mac: Mac([0x02, 0xf7, 0, 0, pair, side]),
            v4: Ipv4Addr::new(10, 77, pair, side),
            v6: Ipv6Addr::new(0xfd77, 0, 0, pair.into(), 0, 0, 0, side.into()),
        }
    }

    /// Runs a command line (split at white space, no quoting) here and returns what it printed.
    ///
    /// # Errors
    /// Where it cannot be run or fails, with what it said.
    pub fn command(&self, line: &str) -> Result<String> {
        run_line(line)
    }

    /// Runs a command line in the peer: see [`Sandbox::command`].
    ///
    /// # Errors
    /// As there.
    pub fn peer_command(&self, line: &str) -> Result<String> {
        self.peer(|| run_line(line))?
    }

    /// Starts a process here, which is killed when the result is dropped.
    ///
    /// # Errors
    /// Where it cannot be started.
    pub fn spawn(&self, command: Command) -> Result<Process> {
        Process::start(command)
    }

    /// Starts a process in the peer: see [`Sandbox::spawn`].
    ///
    /// # Errors
    /// As there.
    pub fn peer_spawn(&self, command: Command) -> Result<Process> {
        self.peer(|| Process::start(command))?
    }
}

/// A host of a sandbox. Clones name the same one; it lives as long as any of them.
#[derive(Clone, Debug)]
pub struct Host {
    net: Arc<fs::File>,
    mnt: Arc<fs::File>,
}

impl Host {
    /// Moves the calling thread into namespaces of its own.
    fn enter_new() -> Result<Self> {
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS)
            .context("making namespaces (this needs root: CAP_SYS_ADMIN)")?;
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).context("making mounts private")?;
        // A sysfs shows the network namespace that it was mounted in.
        for (kind, at) in [("sysfs", "/sys"), ("bpf", "/sys/fs/bpf"), ("tmpfs", "/run")] {
            mount(Some(kind), at, Some(kind), MsFlags::empty(), none).with_context(|| format!("mounting {at}"))?;
        }
        quiet()?;
        ip("link set lo up\n")?;
        let open = |name| fs::File::open(format!("/proc/thread-self/ns/{name}")).map(Arc::new);
        Ok(Self { net: open("net")?, mnt: open("mnt")? })
    }

    /// Returns a path that names its network namespace, for `ip`.
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.net.as_raw_fd())
    }

    /// Runs a command line here: see [`Sandbox::command`].
    ///
    /// # Errors
    /// As there.
    pub fn command(&self, line: &str) -> Result<String> {
        self.run(|| run_line(line))?
    }

    /// Moves the calling thread into this host, for good.
    ///
    /// # Errors
    /// What setns(2) says.
    pub fn enter(&self) -> Result<()> {
        // A thread that shares its root directory with others cannot change mount namespaces.
        unshare(CloneFlags::CLONE_FS).context("unsharing the root directory")?;
        setns(&*self.net, CloneFlags::CLONE_NEWNET).context("entering the network namespace")?;
        setns(&*self.mnt, CloneFlags::CLONE_NEWNS).context("entering the mount namespace")
    }

    /// Runs `body` on a thread inside this host and waits for it; a panic goes on in the caller.
    ///
    /// # Errors
    /// See [`Host::enter`].
    pub fn run<T: Send>(&self, body: impl FnOnce() -> T + Send) -> Result<T> {
        on_thread(|| {
            self.enter()?;
            Ok(body())
        })
    }

    /// Starts a thread inside this host.
    pub fn spawn<T: Send + 'static>(&self, body: impl FnOnce() -> T + Send + 'static) -> thread::JoinHandle<Result<T>> {
        let host = self.clone();
        thread::spawn(move || {
            host.enter()?;
            Ok(body())
        })
    }
}

/// A veth pair. Pair `i` (from 0) has 10.77.i.1/24 and fd77:0:0:i::1/64 here, `.2` and `::2` in
/// the peer, and permanent neighbour entries for these.
#[derive(Clone, Debug)]
pub struct Veth {
    /// The end under test.
    pub here: End,
    /// The end in the peer.
    pub peer: End,
}

/// One end of a [`Veth`].
#[derive(Clone, Debug)]
pub struct End {
    /// The interface's name.
    pub name: String,
    /// Its index, in its own namespace.
    pub ifindex: u32,
    /// Its Ethernet address.
    pub mac: Mac,
    /// Its IPv4 address; the prefix is a /24.
    pub v4: Ipv4Addr,
    /// Its IPv6 address; the prefix is a /64.
    pub v6: Ipv6Addr,
}

/// What the driver of a veth counted on one end, whoever else counts: `veth_get_stats64` of drivers/net/veth.c.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Arrived {
    /// Packets that were given to the end's XDP program, or to its stack where it has none.
    pub packets: u64,
    /// Packets that were not, because the queue of 256 was full.
    pub dropped: u64,
}

impl End {
    /// Returns what has arrived here since it was made. It has to be asked on a thread of its host.
    ///
    /// # Errors
    /// Where there is no such interface.
    pub fn arrived(&self) -> Result<Arrived> {
        let read = |name: &str| -> Result<u64> {
            let path = format!("/sys/class/net/{}/statistics/{name}", self.name);
            let text = fs::read_to_string(&path).with_context(|| path.clone())?;
            text.trim().parse().with_context(|| path)
        };
        Ok(Arrived { packets: read("rx_packets")?, dropped: read("rx_dropped")? })
    }
}

/// An Ethernet address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mac(
    /// As on the wire.
    pub [u8; 6],
);

impl std::fmt::Display for Mac {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl std::str::FromStr for Mac {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let bytes: Result<Vec<u8>, _> = text.split(':').map(|byte| u8::from_str_radix(byte, 16)).collect();
        let bytes = bytes.ok().and_then(|bytes| <[u8; 6]>::try_from(bytes).ok());
        Ok(Self(bytes.with_context(|| format!("`{text}` is not an Ethernet address like 02:f7:00:00:00:01"))?))
    }
}

/// A process that is killed and reaped when this is dropped.
#[derive(Debug)]
pub struct Process(Child);

impl Process {
    fn start(mut command: Command) -> Result<Self> {
        let child = command.spawn().with_context(|| format!("starting {}", command.get_program().display()))?;
        Ok(Self(child))
    }
}

impl Deref for Process {
    type Target = Child;

    fn deref(&self) -> &Child {
        &self.0
    }
}

impl DerefMut for Process {
    fn deref_mut(&mut self) -> &mut Child {
        &mut self.0
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Neither fails but for a process that was reaped before, which is as wanted.
        let _killed: io::Result<()> = self.0.kill();
        let _reaped: io::Result<_> = self.0.wait();
    }
}

/// Runs on a thread of its own; a panic goes on in the caller.
fn on_thread<T: Send>(body: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| scope.spawn(body).join().unwrap_or_else(|panic| resume_unwind(panic)))
}

/// Makes interfaces that are created from now on silent, in the namespace of this thread.
fn quiet() -> Result<()> {
    let settings = [
        ("ipv6/conf/default/accept_ra", "0"),
        ("ipv6/conf/default/accept_dad", "0"),
        ("ipv6/conf/default/autoconf", "0"),
        ("ipv6/conf/default/router_solicitations", "0"),
        // No link-local address: nothing then asks or reports by itself.
        ("ipv6/conf/default/addr_gen_mode", "1"),
        ("ipv4/conf/all/rp_filter", "0"),
        ("ipv4/conf/default/rp_filter", "0"),
    ];
    for (name, value) in settings {
        let path = format!("/proc/sys/net/{name}");
        fs::write(&path, value).with_context(|| path)?;
    }
    Ok(())
}

/// Gives one end its addresses and neighbours; returns its index.
fn configure(own: &End, other: &End, default_route: bool) -> Result<u32> {
    let (name, mac) = (&own.name, other.mac);
    // Frames that XDP sends on carry no note that a checksum is still to be filled in.
    sys::software_checksums(name).with_context(|| format!("turning {name}'s checksum offload off"))?;
    let mut script = format!("addr add {}/24 dev {name}\naddr add {}/64 dev {name} nodad\n", own.v4, own.v6);
    for address in [IpAddr::V4(other.v4), IpAddr::V6(other.v6)] {
        script += &format!("neigh replace {address} lladdr {mac} dev {name} nud permanent\n");
        if default_route {
            script += &format!("route add default via {address} dev {name}\n");
        }
    }
    ip(&script)?;
    if_nametoindex(name.as_str()).with_context(|| format!("interface {name}"))
}

/// Gives `ip` commands, one a line.
fn ip(script: &str) -> Result<()> {
    use std::io::Write as _;
    let mut child = Command::new("ip")
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("starting `ip`: install iproute2 (`cargo xtask setup`)")?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(script.as_bytes()).context("writing to `ip`")?;
    }
    let output = child.wait_with_output().context("waiting for `ip`")?;
    if !output.status.success() {
        bail!("`ip` refused:\n{}\nin:\n{script}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}

fn run_line(line: &str) -> Result<String> {
    let mut words = line.split_whitespace();
    let program = words.next().context("an empty command line")?;
    let output = Command::new(program).args(words).output().with_context(|| format!("starting `{program}`"))?;
    if !output.status.success() {
        bail!("`{line}`: {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

static SKIPPED: AtomicUsize = AtomicUsize::new(0);

/// Notes that a test, or a part of one, is skipped: prints what and why, counts it, and adds a
/// line to the file that `FTAGENT_SKIPPED` names. `cargo xtask test` sets it, sums up what many
/// test binaries wrote there, and fails where something may not be skipped.
pub fn skip(what: &str, why: &str) {
    use std::io::Write as _;
    let count = SKIPPED.fetch_add(1, Ordering::Relaxed) + 1;
    eprintln!("skipped ({count} so far in this process): {what}: {why}");
    let Some(path) = std::env::var_os("FTAGENT_SKIPPED") else { return };
    // One write: other threads add their lines at the same time.
    let line = format!("{what}: {why}\n");
    let added = fs::File::options().create(true).append(true).open(&path);
    if let Err(error) = added.and_then(|mut file| file.write_all(line.as_bytes())) {
        eprintln!("{}: {error}", path.display());
    }
}

/// Returns whether this process may make sandboxes; where not, notes that `what` is skipped.
pub fn may_run(what: &str) -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        skip(what, "it needs root: run `sudo -E cargo xtask test`");
    }
    root
}

/// Returns from the enclosing test where the process is not root, and says so.
#[macro_export]
macro_rules! require_root {
    () => {
        if !$crate::sandbox::may_run(concat!(module_path!(), " (", file!(), ":", line!(), ")")) {
            return;
        }
    };
}
