//! Traffic: live frames at millions of packets per second, captures onto an interface, and the
//! programs that count what arrives.
//!
//! A flood is a [`Template`] (one frame, field by field) and a [`Vary`] (which fields differ from
//! packet to packet). [`Generator`] sends it, [`Receiver`] counts it at the other end of a veth,
//! [`vectors`] has ready ones by the names of attack vectors, and [`replay_capture`] puts a
//! capture file onto an interface.

mod capture;
mod generator;
mod receiver;
mod replay;
#[path = "../../../ftagent-ebpf/src/traffic/spec.rs"]
mod spec;
pub(crate) mod sys;
mod template;
mod vary;
pub mod vectors;

pub use capture::{Capture, Captured, captures, need_captures};
pub use generator::{Flood, Generator, Sent, SentCounter};
pub use receiver::{Program, Receiver};
pub use replay::{Pace, Replayed, replay_capture};
pub use spec::{FRAME_MAX, PATCHES, Received, Vlan};
pub use sys::packet_socket;
pub use template::{Fragment, L4, Template, tcp};
pub use vary::{Addresses, Values, Vary, Word};

use anyhow::{Context as _, Result};
use aya::{Ebpf, EbpfLoader, include_bytes_aligned, maps::MapData, programs::Xdp};

static OBJECT: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/ftagent-traffic"));

/// Loads one program of the object, with maps of its own.
fn load(name: &str) -> Result<Ebpf> {
    let mut ebpf = EbpfLoader::new().load(OBJECT).context("loading the traffic programs")?;
    program(&mut ebpf, name)?.load().with_context(|| format!("loading program `{name}`"))?;
    Ok(ebpf)
}

fn program<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Xdp> {
    let program = ebpf.program_mut(name).with_context(|| format!("the object has no program `{name}`"))?;
    Ok(program.try_into()?)
}

/// Takes a map out of the object; the programs keep it too.
fn take<T: TryFrom<aya::maps::Map, Error = aya::maps::MapError>>(ebpf: &mut Ebpf, name: &str) -> Result<T> {
    let map = ebpf.take_map(name).with_context(|| format!("the object has no map `{name}`"))?;
    T::try_from(map).with_context(|| format!("map `{name}`"))
}

type PerCpu<T> = aya::maps::PerCpuArray<MapData, T>;
