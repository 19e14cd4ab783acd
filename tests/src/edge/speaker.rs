//! Two gobgpd with a session over the uplink: one beside the agent, one in the router.

use std::{
    fs::{self, File},
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::Edge;
use crate::{
    daemon::wait_for,
    peers,
    sandbox::{Process, Sandbox},
};

/// The AS of the host under test.
pub const OWN_AS: u32 = 64500;
/// The AS of the router.
pub const ROUTER_AS: u32 = 64510;
/// Where both daemons have their API, on the loopback of their host.
pub const API: &str = "127.0.0.1:50051";
/// How long a session has to come up.
const PATIENCE: Duration = Duration::from_secs(30);
/// The families of the session.
const FAMILIES: [&str; 4] = ["ipv4-unicast", "ipv6-unicast", "ipv4-flowspec", "ipv6-flowspec"];

/// Both daemons.
#[derive(Debug)]
pub struct Speakers {
    dir: tempfile::TempDir,
    own: Option<Process>,
    _router: Process,
}

impl Speakers {
    /// Starts both and waits for their session; `None` where gobgpd is not there.
    ///
    /// # Errors
    /// Where they do not start, or find no session; what they wrote is in the error.
    pub fn start(sandbox: &Sandbox, edge: &Edge) -> Result<Option<Self>> {
        if ["gobgpd", "gobgp"].iter().any(|name| peers::program(name).is_none()) {
            return Ok(None);
        }
        let dir = tempfile::Builder::new().prefix("ftagent-bgp-").tempdir().context("making a folder")?;
        let (here, there) = (edge.veth.here.v4, edge.veth.peer.v4);
        let listens = format!("port = 179\nlocal-address-list = [\"{there}\"]\n");
        fs::write(dir.path().join("router.toml"), configuration(ROUTER_AS, there, &listens, OWN_AS, here, true))?;
        fs::write(dir.path().join("own.toml"), configuration(OWN_AS, here, "port = -1\n", ROUTER_AS, there, false))?;
        let router = daemon(&dir.path().join("router"))?;
        let router = sandbox.peer_spawn(router)?;
        let mut speakers = Self { dir, own: None, _router: router };
        speakers.launch(sandbox)?;
        Ok(Some(speakers))
    }

    /// Starts the agent's daemon, and waits for the session.
    ///
    /// # Errors
    /// As [`Speakers::start`].
    pub fn launch(&mut self, sandbox: &Sandbox) -> Result<()> {
        self.begin(sandbox)?;
        let established = || {
            let neighbors = sandbox.peer(|| ask(&["neighbor"])).ok()?.ok()?;
            let state = neighbors.get(0)?.get("state")?.get("session_state")?.clone();
            (state == "established" || state == 6).then_some(())
        };
        wait_for("a session between the BGP daemons", PATIENCE, established)
            .with_context(|| fs::read_to_string(self.dir.path().join("own.log")).unwrap_or_default())
    }

    /// Starts the agent's daemon, and waits for nothing.
    ///
    /// # Errors
    /// Where it cannot be started.
    pub fn begin(&mut self, sandbox: &Sandbox) -> Result<()> {
        self.own = Some(sandbox.spawn(daemon(&self.dir.path().join("own"))?)?);
        Ok(())
    }

    /// Kills the agent's daemon, which cannot say goodbye.
    pub fn kill(&mut self) {
        self.own = None;
    }
}

impl Drop for Speakers {
    fn drop(&mut self) {
        for name in ["own.log", "router.log"].iter().filter(|_| std::thread::panicking()) {
            let log = fs::read_to_string(self.dir.path().join(name)).unwrap_or_default();
            eprintln!("--- {name}\n{log}");
        }
    }
}

/// Returns the routes of a family that the daemon of the calling thread's host has.
///
/// # Errors
/// What gobgp says.
pub fn table(family: &str) -> Result<Vec<Value>> {
    let table = ask(&["global", "rib", "-a", family])?;
    let routes = table.as_object().into_iter().flat_map(|all| all.values());
    Ok(routes.filter_map(|paths| paths.get(0).cloned()).collect())
}

fn ask(words: &[&str]) -> Result<Value> {
    let mut command = peers::program("gobgp").context("there is no gobgp")?;
    let api: SocketAddr = API.parse()?;
    let output = command.args(["-p", &api.port().to_string(), "-j"]).args(words).output().context("starting gobgp")?;
    ensure!(output.status.success(), "gobgp: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(serde_json::from_slice(&output.stdout).unwrap_or_default())
}

fn daemon(path: &std::path::Path) -> Result<Command> {
    let mut command = peers::program("gobgpd").context("there is no gobgpd")?;
    let log: PathBuf = path.with_extension("log");
    let log = File::options().create(true).append(true).open(&log).with_context(|| log.display().to_string())?;
    command.args(["-t", "toml", "--pprof-disable", "--api-hosts", API, "-f"]).arg(path.with_extension("toml"));
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    Ok(command)
}

fn configuration(own: u32, address: Ipv4Addr, listens: &str, other: u32, neighbor: Ipv4Addr, passive: bool) -> String {
    let families: String = FAMILIES
        .iter()
        .map(|name| format!("[[neighbors.afi-safis]]\n[neighbors.afi-safis.config]\nafi-safi-name = \"{name}\"\n"))
        .collect();
    format!(
        "[global.config]\nas = {own}\nrouter-id = \"{address}\"\n{listens}\
         [[neighbors]]\n[neighbors.config]\nneighbor-address = \"{neighbor}\"\npeer-as = {other}\n\
         [neighbors.transport.config]\npassive-mode = {passive}\nlocal-address = \"{address}\"\n\
         [neighbors.timers.config]\nconnect-retry = 1\nhold-time = 30\nkeepalive-interval = 10\n{families}"
    )
}
