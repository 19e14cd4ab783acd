//! An uplink that can be full: a router upstream that shapes it, and the world behind that router.
//!
//! ```text
//! host under test            the peer: a router of the provider             the world
//!   wan0 10.77.0.1 ───────────── peer0 10.77.0.2 │ core0 10.79.0.1 ───────────── world0 10.79.0.2
//!   gobgpd AS 64500   BGP        tbf towards wan0 │ nft at ingress, made of routes  floods start here
//! ```
//!
//! What the router drops never loads the uplink, as at a real provider, and what it does not drop fills it. The
//! session of BGP shares the link with the flood.

mod enforcer;
mod flooding;
mod flowspec;
mod link;
mod speaker;

use std::{fs, net::Ipv4Addr};

use anyhow::{Context as _, Result};

use crate::{
    sandbox::{Host, Mac, Sandbox, Veth},
    traffic::{Program, Receiver, vectors::Link},
};

pub use enforcer::{Change, Enforcer};
pub use flooding::Flooding;
pub use link::{Load, Meter};
pub use speaker::{API, OWN_AS, ROUTER_AS, Speakers, table};

/// The router's interface towards the world.
const CORE: &str = "core0";
/// The world's interface.
const WORLD: &str = "world0";
/// The addresses of both.
const CORE_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 79, 0, 1);
const WORLD_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 79, 0, 2);
const CORE_MAC: Mac = Mac([2, 0xf7, 1, 0, 0, 1]);
const WORLD_MAC: Mac = Mac([2, 0xf7, 1, 0, 0, 2]);
/// What the shaper lets through at once, bytes, and how long packets wait in it at most.
const SHAPER: &str = "burst 256k latency 50ms";

/// One more address of the host under test, in the network of the uplink.
pub const SECOND: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 5);

/// An uplink, the router at its other end, and the world.
pub struct Edge {
    /// The uplink: the end under test is `wan0`.
    pub veth: Veth,
    world: Host,
    /// Frames that a program sends reach only an interface with a program.
    _takes_frames: Receiver,
}

impl Edge {
    /// Makes the uplink of this capacity, in Mbit/s, as the first pair of the sandbox.
    ///
    /// # Errors
    /// What `ip`, `ethtool` and `tc` say.
    pub fn new(sandbox: &Sandbox, capacity_mbit: u32) -> Result<Self> {
        let veth = sandbox.veth("wan0", "peer0")?;
        sandbox.widen(&veth)?;
        let world = sandbox.one_more()?;
        sandbox.peer_command(&format!(
            "ip link add {CORE} address {CORE_MAC} type veth peer name {WORLD} address {WORLD_MAC} netns {}",
            world.path()
        ))?;
        let ends = [(CORE, CORE_ADDRESS, WORLD_ADDRESS, WORLD_MAC), (WORLD, WORLD_ADDRESS, CORE_ADDRESS, CORE_MAC)];
        for (host, (name, own, other, mac)) in [sandbox.peer_host(), &world].into_iter().zip(ends) {
            for line in [
                format!("ip link set {name} arp off"),
                format!("ip link set {name} up"),
                format!("ip addr add {own}/24 dev {name}"),
                format!("ip neigh replace {other} lladdr {mac} dev {name} nud permanent"),
                // Frames that XDP sends on carry no note that a checksum is still to be filled in.
                format!("ethtool -K {name} tx off gro off"),
            ] {
                host.command(&line)?;
            }
        }
        world.command(&format!("ip route add default via {CORE_ADDRESS}"))?;
        // What comes from elsewhere in the world has its way back through it.
        sandbox.peer_command(&format!("ip route replace default via {WORLD_ADDRESS}"))?;
        sandbox.peer(|| fs::write("/proc/sys/net/ipv4/ip_forward", "1"))?.context("letting the router forward")?;
        let shape = format!("tc qdisc add dev {} root tbf rate {capacity_mbit}mbit {SHAPER}", veth.peer.name);
        sandbox.peer_command(&shape).context("shaping the uplink (the kernel needs sch_tbf)")?;
        let takes_frames = sandbox.peer(|| Receiver::attach(CORE, Program::Pass))??;
        Ok(Self { veth, world, _takes_frames: takes_frames })
    }

    /// Gives the host under test [`SECOND`], which a black hole may have: the first has the session of BGP.
    ///
    /// # Errors
    /// What `ip` says.
    pub fn add_second(&self, sandbox: &Sandbox) -> Result<()> {
        let (here, peer) = (&self.veth.here, &self.veth.peer);
        sandbox.command(&format!("ip addr add {SECOND}/24 dev {}", here.name))?;
        sandbox
            .peer_command(&format!("ip neigh replace {SECOND} lladdr {} dev {} nud permanent", here.mac, peer.name))
            .map(drop)
    }

    /// The world: floods start there.
    pub const fn world(&self) -> &Host {
        &self.world
    }

    /// Returns the way from the world to the host under test.
    pub fn way(&self) -> Link {
        Link { src_mac: WORLD_MAC, dst_mac: CORE_MAC, vlans: Vec::new(), dst: self.veth.here.v4.into() }
    }

    /// Returns the index of the interface that floods leave the world by, for a thread there.
    ///
    /// # Errors
    /// Where it is gone.
    pub fn leaves_by(&self) -> Result<u32> {
        self.world.run(|| nix::net::if_::if_nametoindex(WORLD))?.context("the world's interface")
    }
}
