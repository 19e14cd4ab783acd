//! A BGP daemon, and neighbours that hear it: gobgpd, BIRD, and a speaker of the test's own that hears all three.

use std::{
    fs,
    net::{Ipv4Addr, TcpStream},
    os::unix::fs::OpenOptionsExt as _,
    path::PathBuf,
    process::{Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use ftagent::config::{Bgp, Config};
use ftagent_tests::{
    peers,
    sandbox::{Process, Sandbox},
};
use tempfile::TempDir;

use super::wire::{Table, Wire};

/// The test's own speaker, by which connections leave that name no address.
const WIRE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 1);
/// A gobgpd that hears the daemon, AS 64501.
pub const GOBGP: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
/// A BIRD that hears the daemon, AS 64502.
pub const BIRD: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 3);
/// The daemon that is spoken to, AS 64500.
pub const DAEMON: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 4);

/// The agent's marker.
pub const MARKER: [u32; 3] = [64500, 0x6674_6167, 7];

/// The daemon under test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    GoBgp,
    ExaBgp,
}

/// All of it.
pub struct World<'a> {
    pub kind: Kind,
    pub wire: Wire,
    sandbox: &'a Sandbox,
    daemon: Option<Process>,
    /// Configurations, and what the programs write.
    dir: TempDir,
    _neighbours: Vec<Process>,
}

/// Runs a test among daemons; skips it where one is missing.
pub fn within(kind: Kind, body: impl FnOnce(&mut World<'_>) + Send) {
    let own = if kind == Kind::GoBgp { "gobgpd" } else { "exabgp" };
    if peers::need("routes through BGP daemons", &[own, "gobgpd", "gobgp", "bird", "birdc"]) {
        Sandbox::run(|sandbox| body(&mut World::start(sandbox, kind))).unwrap();
    }
}

/// Waits for something; where it does not come, says what there is instead.
pub fn until(what: &str, mut holds: impl FnMut() -> bool, instead: impl FnOnce() -> String) -> Duration {
    let since = Instant::now();
    while !holds() {
        if since.elapsed() > Duration::from_secs(60) {
            panic!("in vain: {what}: {}", instead());
        }
        sleep(Duration::from_millis(5));
    }
    since.elapsed()
}

impl<'a> World<'a> {
    fn start(sandbox: &'a Sandbox, kind: Kind) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let called = kind == Kind::GoBgp;
        // Only who waits to be called is called: two calls at once are one too many.
        let gobgpd = gobgp(GOBGP, 64501, &[(DAEMON, 64500, !called), (WIRE, 64501, true)]);
        fs::write(dir.path().join("peer.toml"), gobgpd).unwrap();
        fs::write(dir.path().join("bird.conf"), bird(called)).unwrap();
        fs::write(
            dir.path().join("daemon.toml"),
            gobgp(DAEMON, 64500, &[(GOBGP, 64501, true), (BIRD, 64502, true), (WIRE, 64503, true)]),
        )
        .unwrap();
        fs::write(dir.path().join("exabgp.conf"), exabgp()).unwrap();
        let neighbours = vec![
            spawn(sandbox, &dir, "peer", gobgpd_command(&dir, "peer.toml", GOBGP)),
            spawn(sandbox, &dir, "bird", {
                let mut bird = peers::program("bird").unwrap();
                bird.arg("-f").arg("-c").arg(dir.path().join("bird.conf")).arg("-s").arg(dir.path().join("bird.ctl"));
                bird
            }),
        ];
        let wire = Wire::start(sandbox, &[(DAEMON, 64503, called), (GOBGP, 64501, true), (BIRD, 64502, true)]);
        let mut world = Self { kind, wire, sandbox, daemon: None, dir, _neighbours: neighbours };
        if kind == Kind::ExaBgp {
            fs::create_dir(world.pipes()).unwrap();
            for name in ["exabgp.in", "exabgp.out"] {
                sandbox.command(&format!("mkfifo -m 600 {}", world.pipes().join(name).display())).unwrap();
            }
        }
        world.start_daemon();
        world.wait_for_sessions();
        world
    }

    /// Waits until everybody hears everybody.
    pub fn wait_for_sessions(&self) {
        for neighbour in [DAEMON, GOBGP, BIRD] {
            self.wire.wait(neighbour, "anything", |_| true);
        }
        let bird = || {
            let mut birdc = peers::program("birdc").unwrap();
            birdc.arg("-s").arg(self.dir.path().join("bird.ctl")).args(["show", "protocols", "daemon"]);
            said(&mut birdc).1
        };
        until("BIRD's session with the daemon", || bird().contains("Established"), bird);
        let gobgp = || said(gobgp_client(GOBGP).args(["neighbor", &DAEMON.to_string()])).1;
        until("gobgpd's session with the daemon", || gobgp().contains("ESTABLISHED"), gobgp);
    }

    /// Waits until the table is as wanted wherever the daemon is heard.
    pub fn everywhere(&self, what: &str, wanted: impl Fn(&Table) -> bool) {
        for neighbour in [DAEMON, GOBGP, BIRD] {
            self.wire.wait(neighbour, what, &wanted);
        }
    }

    fn pipes(&self) -> PathBuf {
        // Where ExaBGP looks first; the sandbox has a /run of its own.
        PathBuf::from("/run/exabgp")
    }

    /// Returns the agent's configuration.
    pub fn config(&self, more: &str) -> Bgp {
        let daemon = match self.kind {
            Kind::GoBgp => "gobgp",
            Kind::ExaBgp => "exabgp",
        };
        let [global, first, second] = MARKER;
        let text = format!(
            "[bgp]\ndaemon = \"{daemon}\"\ngobgp_address = \"{DAEMON}:50051\"\nexabgp_pipes = \"{}\"\nasn = 64500\n\
             marker = \"{global}:{first}:{second}\"\nown_prefixes = [\"198.51.100.0/24\", \"2001:db8:ffff::/48\"]\n\
             protect = [\"198.51.100.1\"]\nflowspec_communities = [\"64500:7\"]\npacket_rates = true\n\
             source_blackhole = true\n{more}",
            self.pipes().display()
        );
        Config::parse(&text, "a test").unwrap().bgp.unwrap()
    }

    /// Starts the daemon; it may take a while before it answers.
    pub fn start_daemon(&mut self) {
        let command = match self.kind {
            Kind::GoBgp => gobgpd_command(&self.dir, "daemon.toml", DAEMON),
            Kind::ExaBgp => {
                let mut exabgp = peers::program("exabgp").unwrap();
                exabgp.envs([("exabgp_daemon_user", "root"), ("exabgp_log_all", "false")]);
                exabgp.arg(self.dir.path().join("exabgp.conf"));
                exabgp
            }
        };
        self.daemon = Some(spawn(self.sandbox, &self.dir, "daemon", command));
    }

    /// Kills it, as the kernel does when memory is short.
    pub fn kill_daemon(&mut self) {
        self.daemon = None;
        let gone = || !self.answers() && self.wire.table(DAEMON).is_none();
        until("the daemon is gone", gone, String::new);
    }

    /// Returns whether the daemon can be spoken to.
    pub fn answers(&self) -> bool {
        match self.kind {
            Kind::GoBgp => TcpStream::connect((DAEMON, 50051)).is_ok(),
            Kind::ExaBgp => {
                let pipe = self.pipes().join("exabgp.in");
                fs::File::options().write(true).custom_flags(libc::O_NONBLOCK).open(pipe).is_ok()
            }
        }
    }

    /// Does by hand what an operator would, with the daemon's own tools: the words behind `announce` or `withdraw`
    /// of ExaBGP, or those of `gobgp global rib`.
    pub fn by_hand(&self, gobgp: &str, exabgp: &str) {
        match self.kind {
            Kind::GoBgp => {
                let words = gobgp.split_whitespace();
                let (well, said) = said(gobgp_client(DAEMON).args(["global", "rib"]).args(words));
                assert!(well, "{gobgp}: {said}");
            }
            Kind::ExaBgp => {
                let mut client = peers::program("exabgp-cli").unwrap();
                let (well, said) = said(client.args(exabgp.split_whitespace()));
                assert!(well, "{exabgp}: {said}");
            }
        }
    }
}

/// Starts a program that writes to a log of its name, which goes on over restarts.
fn spawn(sandbox: &Sandbox, dir: &TempDir, name: &str, mut command: Command) -> Process {
    let log = fs::File::options().create(true).append(true).open(dir.path().join(name).with_extension("log")).unwrap();
    command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
    sandbox.spawn(command).unwrap()
}

impl Drop for World<'_> {
    /// Where the test fails, what the programs wrote tells why.
    fn drop(&mut self) {
        for name in ["daemon", "peer", "bird"].iter().filter(|_| std::thread::panicking()) {
            let log = fs::read_to_string(self.dir.path().join(name).with_extension("log")).unwrap_or_default();
            let last: Vec<&str> = log.lines().rev().take(200).collect();
            let last: Vec<&str> = last.into_iter().rev().collect();
            eprintln!("--- the end of what {name} wrote\n{}", last.join("\n"));
        }
    }
}

fn said(command: &mut Command) -> (bool, String) {
    let output = command.stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.success(), said)
}

fn gobgpd_command(dir: &TempDir, file: &str, address: Ipv4Addr) -> Command {
    let mut command = peers::program("gobgpd").unwrap();
    command.args(["-t", "toml", "--pprof-disable", "--api-hosts", &format!("{address}:50051"), "-f"]);
    command.arg(dir.path().join(file));
    command
}

fn gobgp_client(address: Ipv4Addr) -> Command {
    let mut command = peers::program("gobgp").unwrap();
    command.args(["-u", &address.to_string()]);
    command
}

fn gobgp(address: Ipv4Addr, asn: u16, neighbours: &[(Ipv4Addr, u16, bool)]) -> String {
    let mut text = format!(
        "[global.config]\nas = {asn}\nrouter-id = \"{address}\"\nport = 179\nlocal-address-list = [\"{address}\"]\n"
    );
    for (neighbour, theirs, passive) in neighbours {
        text.push_str(&format!(
            "[[neighbors]]\n[neighbors.config]\nneighbor-address = \"{neighbour}\"\npeer-as = {theirs}\n\
             [neighbors.transport.config]\nlocal-address = \"{address}\"\npassive-mode = {passive}\n\
             [neighbors.timers.config]\nconnect-retry = 1\nidle-hold-time-after-reset = 1\n"
        ));
        if asn != *theirs {
            text.push_str("[neighbors.ebgp-multihop.config]\nenabled = true\nmultihop-ttl = 10\n");
        }
        for family in ["ipv4-unicast", "ipv6-unicast", "ipv4-flowspec", "ipv6-flowspec"] {
            text.push_str(&format!(
                "[[neighbors.afi-safis]]\n[neighbors.afi-safis.config]\nafi-safi-name = \"{family}\"\n"
            ));
        }
    }
    text
}

/// It calls the daemon, or waits to be called.
fn bird(calls: bool) -> String {
    let channels = |import: &str, export: &str| {
        let one = |channel: &str| format!(" {channel} import {import}; export {export}; }};\n");
        ["ipv4 {", "ipv6 {", "flow4 { table f4;", "flow6 { table f6;"].map(one).concat()
    };
    let passive = if calls { "" } else { " passive;" };
    format!(
        "router id {BIRD};\nflow4 table f4;\nflow6 table f6;\nprotocol device {{}}\nprotocol bgp daemon {{\n local {BIRD} \
         as 64502; neighbor {DAEMON} as 64500; multihop; strict bind yes;{passive}\n connect retry time 1; connect \
         delay time 1; error wait time 1, 1;\n{}}}\nprotocol bgp wire {{\n local {BIRD} as 64502; neighbor {WIRE} as \
         64502; multihop; strict bind yes; passive; error wait time 1, 1;\n{}}}\n",
        channels("all", "none"),
        channels("none", "all"),
    )
}

fn exabgp() -> String {
    let one = |(address, asn): (Ipv4Addr, u16)| {
        format!(
            "neighbor {address} {{\n router-id {DAEMON}; local-address {DAEMON}; local-as 64500; peer-as {asn};\n \
             family {{ ipv4 unicast; ipv6 unicast; ipv4 flow; ipv6 flow; }}\n}}\n"
        )
    };
    [(GOBGP, 64501), (BIRD, 64502), (WIRE, 64503)].map(one).concat()
}
