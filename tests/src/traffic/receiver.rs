//! XDP programs at the receiving end of a veth.

use anyhow::{Context as _, Result};
use aya::{Ebpf, maps::Array, programs::XdpMode};

use super::{PerCpu, Received, Vlan, load, program, take};

/// What a [`Receiver`] does with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// Passes it and does not count it.
    Pass,
    /// Counts it and passes it.
    Count,
    /// Counts it and drops it.
    Drop,
    /// Counts it and pushes VLAN tags.
    PushVlan,
    /// Counts it and strips up to two VLAN tags.
    PopVlan,
}

impl Program {
    fn name(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Count => "count",
            Self::Drop => "drop",
            Self::PushVlan => "push_vlan",
            Self::PopVlan => "pop_vlan",
        }
    }
}

/// A program attached in native mode to an interface; detached when this is dropped.
///
/// The receiving end of a veth needs one for live frames to arrive at all: without a program (or
/// GRO) it has no queue for them and the kernel drops them unseen (`veth_xdp_xmit`,
/// drivers/net/veth.c).
pub struct Receiver {
    _attached: Ebpf,
    received: PerCpu<Received>,
}

impl Receiver {
    /// Attaches a program to an interface of the calling thread's network namespace.
    ///
    /// # Errors
    /// Where the interface is missing, has a program already, or its driver has no XDP.
    pub fn attach(interface: &str, what: Program) -> Result<Self> {
        Self::attach_with(interface, what, Vlan::default())
    }

    /// The same, for a program that needs to know of VLAN tags.
    ///
    /// # Errors
    /// As [`Receiver::attach`].
    pub fn attach_with(interface: &str, what: Program, vlan: Vlan) -> Result<Self> {
        let name = what.name();
        let mut ebpf = load(name)?;
        let mut map: Array<_, Vlan> = take(&mut ebpf, "vlan")?;
        map.set(0, vlan, 0).context("writing map `vlan`")?;
        let received = take(&mut ebpf, "received")?;
        program(&mut ebpf, name)?
            .attach(interface, XdpMode::Driver)
            .with_context(|| format!("attaching `{name}` to {interface}"))?;
        Ok(Self { _attached: ebpf, received })
    }

    /// Returns what arrived since the program was attached, summed over the CPUs.
    ///
    /// # Errors
    /// What the map says.
    pub fn received(&self) -> Result<Received> {
        let per_cpu = self.received.get(&0, 0).context("reading map `received`")?;
        Ok(per_cpu.iter().fold(Received::default(), |sum, one| Received {
            packets: sum.packets + one.packets,
            bytes: sum.bytes + one.bytes,
        }))
    }
}
