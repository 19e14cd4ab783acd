//! Attaches the datapath to an interface, takes an attachment over, and looks at what is there.

use std::{fs, io, path::Path};

use aya::programs::{
    Xdp, XdpMode,
    links::{FdLink, PinnedLink},
    xdp::XdpLink,
};
use netlink_packet_core::{NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{LinkAttribute, LinkMessage, LinkXdp, XdpAttached},
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use serde::Serialize;
use thiserror::Error;

use crate::sys;

/// How the program runs on an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// In the driver, before a socket buffer is made.
    Native,
    /// In the stack, for any driver; several times slower.
    Generic,
    /// On the card.
    Offloaded,
}

impl Mode {
    /// Returns the name users see.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Generic => "generic",
            Self::Offloaded => "offloaded",
        }
    }
}

/// An XDP program that is attached to an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attached {
    /// Where it runs.
    pub mode: Mode,
    /// The kernel's id of the program.
    pub program: u32,
}

/// Why a program could not be attached.
#[derive(Debug, Error)]
pub enum AttachError {
    /// There is no such interface.
    #[error("there is no interface `{0}`: `ip link` lists those there are")]
    NoInterface(String),
    /// Another XDP program is there; it is never replaced.
    #[error(
        "interface `{name}` already runs an XDP program (id {program}, {mode}), which is not ftagent's: \
         find its owner with `bpftool prog show id {program}` and detach it there; ftagent never replaces it"
    )]
    Foreign {
        /// The interface.
        name: String,
        /// The program's id.
        program: u32,
        /// Where it runs.
        mode: &'static str,
    },
    /// The driver has no native XDP, or not with these settings.
    #[error(
        "the driver of `{name}` refuses native XDP{detail}: `ftagent doctor` says what can be done; generic mode \
         is slower and is used only when `interfaces.mode = \"generic\"` asks for it"
    )]
    NoNative {
        /// The interface.
        name: String,
        /// What the kernel said.
        detail: String,
    },
    /// A system call failed.
    #[error("{what} on `{name}`")]
    Kernel {
        /// The interface.
        name: String,
        /// What was being done.
        what: &'static str,
        /// Why it failed.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// How an attachment came about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The interface had no program.
    Fresh,
    /// An earlier daemon's attachment was taken over: its program was replaced atomically, and
    /// no packet passed without one.
    TakenOver,
}

/// Attaches `xdp` to the interface and pins the attachment at `pin`. An attachment that is
/// pinned there already is taken over. Never falls back to another mode by itself.
///
/// # Errors
/// See [`AttachError`].
pub fn attach(xdp: &mut Xdp, name: &str, ifindex: u32, mode: Mode, pin: &Path) -> Result<Outcome, AttachError> {
    if take_over(xdp, name, ifindex, pin)? {
        return Ok(Outcome::TakenOver);
    }
    if let Some(there) = query(ifindex).map_err(kernel(name, "asking for attached XDP programs"))? {
        let (name, mode) = (name.to_owned(), there.mode.as_str());
        return Err(AttachError::Foreign { name, program: there.program, mode });
    }
    let wanted = match mode {
        Mode::Native => XdpMode::Driver,
        Mode::Generic => XdpMode::Skb,
        Mode::Offloaded => XdpMode::Hardware,
    };
    let id = xdp.attach_to_if_index(ifindex, wanted).map_err(|error| refused(name, mode, error.into()))?;
    let link = xdp.take_link(id).map_err(kernel(name, "taking the link"))?;
    let link = FdLink::try_from(link).map_err(kernel(name, "taking the link (this kernel has no bpf_link for XDP)"))?;
    link.pin(pin).map_err(kernel(name, "pinning the link"))?;
    Ok(Outcome::Fresh)
}

/// Replaces the program of a pinned attachment; returns whether there was one for this interface.
fn take_over(xdp: &mut Xdp, name: &str, ifindex: u32, pin: &Path) -> Result<bool, AttachError> {
    if !pin.exists() {
        return Ok(false);
    }
    let attached_to = sys::bpf::pinned_link_ifindex(pin).map_err(kernel(name, "reading the pinned link"))?;
    if attached_to != ifindex {
        // The interface it was for is gone (0), or the number was given to another since.
        fs::remove_file(pin).map_err(kernel(name, "removing a stale pin"))?;
        return Ok(false);
    }
    let link = PinnedLink::from_pin(pin).map_err(kernel(name, "opening the pinned link"))?;
    let link = XdpLink::try_from(FdLink::from(link)).map_err(kernel(name, "opening the pinned link"))?;
    let id = xdp.attach_to_link(link).map_err(kernel(name, "replacing the program"))?;
    // Dropping our descriptor leaves the pin, and with it the attachment.
    drop(xdp.take_link(id).map_err(kernel(name, "taking the link"))?);
    Ok(true)
}

fn kernel<E: Into<Box<dyn std::error::Error + Send + Sync>>>(
    name: &str,
    what: &'static str,
) -> impl FnOnce(E) -> AttachError {
    move |error| AttachError::Kernel { name: name.to_owned(), what, source: error.into() }
}

/// Says in the operator's terms why a first attachment was refused.
fn refused(name: &str, mode: Mode, error: Box<dyn std::error::Error + Send + Sync>) -> AttachError {
    let errno = errno_of(error.as_ref());
    let name = name.to_owned();
    match (errno, mode) {
        (Some(libc::ENODEV), _) => AttachError::NoInterface(name),
        (Some(libc::EOPNOTSUPP), Mode::Native) => AttachError::NoNative { name, detail: String::new() },
        (Some(libc::ERANGE | libc::EINVAL), Mode::Native) => {
            let detail = format!(" (MTU or queues do not fit: {})", io::Error::from_raw_os_error(errno.unwrap_or(0)));
            AttachError::NoNative { name, detail }
        }
        _ => AttachError::Kernel { name, what: "attaching", source: error },
    }
}

/// aya hides the errno in the source chain.
fn errno_of(error: &(dyn std::error::Error + 'static)) -> Option<i32> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(io) = error.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error) {
            return Some(io);
        }
        next = error.source();
    }
    None
}

/// Returns the XDP program attached to an interface, by whatever means (`IFLA_XDP`, rtnetlink(7)).
///
/// # Errors
/// What netlink says; `ENODEV` where there is no such interface.
pub fn query(ifindex: u32) -> io::Result<Option<Attached>> {
    let mut request = LinkMessage::default();
    request.header.index = ifindex;
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST;
    let mut message = NetlinkMessage::new(header, NetlinkPayload::from(RouteNetlinkMessage::GetLink(request)));
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    socket.send(&bytes, 0)?;
    let (answer, _) = socket.recv_from_full()?;
    let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&answer).map_err(io::Error::other)?;
    match answer.payload {
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) => Ok(attached(&link)),
        NetlinkPayload::Error(error) => Err(error.to_io()),
        _ => Err(io::Error::other("an unexpected netlink message")),
    }
}

fn attached(link: &LinkMessage) -> Option<Attached> {
    let xdp = link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Xdp(xdp) => Some(xdp),
        _ => None,
    })?;
    let (mut mode, mut id) = (None, 0);
    for attribute in xdp {
        match *attribute {
            LinkXdp::Attached(XdpAttached::Driver | XdpAttached::Multiple) => mode = Some(Mode::Native),
            LinkXdp::Attached(XdpAttached::SocketBuffer) => mode = Some(Mode::Generic),
            LinkXdp::Attached(XdpAttached::Hardware) => mode = Some(Mode::Offloaded),
            LinkXdp::ProgId(program) | LinkXdp::DrvProgId(program) | LinkXdp::SkbProgId(program) => id = program,
            _ => {}
        }
    }
    mode.map(|mode| Attached { mode, program: id })
}

/// Returns the name of a loaded program, where it can be read.
pub fn program_name(id: u32) -> Option<String> {
    let program = aya::programs::loaded_programs().flatten().find(|program| program.id() == id)?;
    program.name_as_str().map(str::to_owned)
}

/// Returns the index of an interface, or `None` where there is none of that name.
pub fn ifindex(name: &str) -> Option<u32> {
    nix::net::if_::if_nametoindex(name).ok()
}

/// Returns whether the attachment pinned at `pin` is that of an interface.
///
/// # Errors
/// Where the pin is there and cannot be read: that says nothing about the attachment.
pub fn is_attached(pin: &Path, ifindex: u32) -> io::Result<bool> {
    match sys::bpf::pinned_link_ifindex(pin) {
        Ok(index) => Ok(index == ifindex),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}
