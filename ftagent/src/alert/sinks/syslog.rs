//! Syslog, RFC 5424, over UDP (RFC 5426), TCP with octet counting (RFC 6587, 3.4.1) or a unix socket; the
//! message in words, or as ArcSight's Common Event Format.

use std::{
    io::{self, Write as _},
    net::{TcpStream, ToSocketAddrs as _, UdpSocket},
    os::unix::net::{UnixDatagram, UnixStream},
    time::Duration,
};

use super::{Failure, Pace, Receipt, Sink};
use crate::{
    alert::{Alert, Kind, cut, words::rfc3339},
    config::alerts::{SyslogAddress, SyslogFormat},
    decide::Severity,
};

/// Bytes of a datagram at most: what crosses most networks in one piece (RFC 5426, 3.2).
const DATAGRAM: usize = 1400;
/// Bytes of a message otherwise.
const MESSAGE: usize = 8192;
/// Characters of a host name.
const HOST: usize = 255;
/// The enterprise number of documentation (RFC 5612): the project has none of its own.
const ENTERPRISE: u32 = 32473;

/// The sink.
#[derive(Debug)]
pub struct Syslog {
    address: SyslogAddress,
    format: SyslogFormat,
    facility: u8,
    timeout: Duration,
    line: Option<Line>,
}

#[derive(Debug)]
enum Line {
    Udp(UdpSocket),
    Tcp(TcpStream),
    Datagrams(UnixDatagram),
    Stream(UnixStream),
}

impl Syslog {
    /// Nothing is connected yet.
    pub fn new(address: SyslogAddress, format: SyslogFormat, facility: u8, timeout: Duration) -> Self {
        Self { address, format, facility, timeout, line: None }
    }

    fn connect(&self) -> io::Result<Line> {
        let resolved = |text: &String| {
            text.to_socket_addrs()?.next().ok_or_else(|| io::Error::other("the name stands for no address"))
        };
        Ok(match &self.address {
            SyslogAddress::Udp(to) => {
                let to = resolved(to)?;
                let socket = UdpSocket::bind(if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" })?;
                socket.connect(to)?;
                Line::Udp(socket)
            }
            SyslogAddress::Tcp(to) => {
                let stream = TcpStream::connect_timeout(&resolved(to)?, self.timeout)?;
                stream.set_write_timeout(Some(self.timeout))?;
                stream.set_nonblocking(false)?;
                Line::Tcp(stream)
            }
            SyslogAddress::Unix(path) => {
                let socket = UnixDatagram::unbound()?;
                socket.set_write_timeout(Some(self.timeout))?;
                match socket.connect(path) {
                    Ok(()) => Line::Datagrams(socket),
                    // EPROTOTYPE: it listens for streams.
                    Err(error) if error.raw_os_error() == Some(nix::errno::Errno::EPROTOTYPE as i32) => {
                        let stream = UnixStream::connect(path)?;
                        stream.set_write_timeout(Some(self.timeout))?;
                        Line::Stream(stream)
                    }
                    Err(error) => return Err(error),
                }
            }
        })
    }

    fn write(&mut self, alert: &Alert) -> io::Result<usize> {
        let mut line = match self.line.take() {
            // A peer that has closed takes what is written, and nobody ever reads it.
            Some(Line::Tcp(stream)) if is_closed(&stream) => self.connect()?,
            Some(line) => line,
            None => self.connect()?,
        };
        let most = if matches!(line, Line::Udp(_)) { DATAGRAM } else { MESSAGE };
        let message = message(alert, self.format, self.facility, most);
        let framed = format!("{} {message}", message.len());
        match &mut line {
            Line::Udp(socket) => drop(socket.send(message.as_bytes())?),
            Line::Datagrams(socket) => drop(socket.send(message.as_bytes())?),
            Line::Tcp(stream) => stream.write_all(framed.as_bytes())?,
            Line::Stream(stream) => stream.write_all(framed.as_bytes())?,
        }
        self.line = Some(line);
        Ok(message.len())
    }
}

/// Returns whether the peer has closed its side: nothing else is ever read from it.
fn is_closed(stream: &TcpStream) -> bool {
    let look = || -> io::Result<usize> {
        stream.set_nonblocking(true)?;
        let peeked = stream.peek(&mut [0; 1]);
        stream.set_nonblocking(false)?;
        peeked
    };
    match look() {
        Ok(bytes) => bytes == 0,
        Err(error) => error.kind() != io::ErrorKind::WouldBlock,
    }
}

impl Sink for Syslog {
    fn send(&mut self, alert: &Alert) -> Result<Receipt, Failure> {
        let bytes = self.write(alert).map_err(|error| Failure::later(format!("{}: {error}", shown(&self.address))))?;
        // Syslog never answers.
        Ok(Receipt { answer: format!("{bytes} bytes sent; syslog answers nothing"), pause: None })
    }

    fn pace(&self) -> Pace {
        Pace { per_minute: 60_000, burst: 1000 }
    }
}

fn shown(address: &SyslogAddress) -> String {
    match address {
        SyslogAddress::Udp(to) => format!("udp://{to}"),
        SyslogAddress::Tcp(to) => format!("tcp://{to}"),
        SyslogAddress::Unix(path) => format!("unix://{}", path.display()),
    }
}

/// RFC 5424, 6.2.1.
fn level(alert: &Alert) -> u8 {
    match (alert.kind, alert.severity) {
        (Kind::Closed | Kind::Recovered, _) => 5,
        (Kind::Test, _) | (_, Severity::Info) => 6,
        (_, Severity::Low) => 4,
        (_, Severity::Medium) => 3,
        (_, Severity::High) => 2,
        (_, Severity::Critical) => 1,
    }
}

/// Printable ASCII without spaces, as the header wants it; `-` where there is none.
fn word(text: &str, most: usize) -> String {
    let word: String = text.chars().filter(char::is_ascii_graphic).take(most).collect();
    if word.is_empty() { "-".to_owned() } else { word }
}

fn message(alert: &Alert, format: SyslogFormat, facility: u8, most: usize) -> String {
    let priority = u16::from(facility) * 8 + u16::from(level(alert));
    let header = format!(
        "<{priority}>1 {} {} ftagent {} {}",
        rfc3339(alert.at_ms),
        word(&alert.node, HOST),
        std::process::id(),
        alert.kind.as_str()
    );
    let message = match format {
        SyslogFormat::Cef => format!("{header} - {}", cef(alert)),
        SyslogFormat::Rfc5424 => format!("{header} {} \u{feff}{}", data(alert), alert.title.replace('\n', " ")),
    };
    // Bytes, and no character cut in two.
    let mut end = message.len().min(most);
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    message.get(..end).unwrap_or_default().to_owned()
}

/// Structured data (RFC 5424, 6.3): `"`, `\` and `]` are escaped.
fn data(alert: &Alert) -> String {
    let escaped = |value: &str| {
        let mut text = String::new();
        for c in value.chars().filter(|c| !c.is_control()) {
            if matches!(c, '"' | '\\' | ']') {
                text.push('\\');
            }
            text.push(c);
        }
        text
    };
    let mut pairs = vec![
        ("id", alert.id.clone()),
        ("incident", alert.topic.clone()),
        ("severity", alert.severity.as_str().to_owned()),
        ("vectors", alert.vectors.join(",")),
    ];
    pairs.extend(alert.numbers.iter().map(|(name, value)| (name.as_str(), number(*value))));
    pairs.extend(alert.link.iter().map(|link| ("link", link.clone())));
    let text: String = pairs.iter().map(|(name, value)| format!(" {name}=\"{}\"", escaped(value))).collect();
    format!("[ftagent@{ENTERPRISE}{text}]")
}

/// Writes a number without more digits than it has worth.
fn number(value: f64) -> String {
    if value.fract() == 0.0 || value >= 100.0 { format!("{value:.0}") } else { format!("{value:.3}") }
}

/// `CEF:0|vendor|product|version|id|name|severity|extension`: `|` and `\` are escaped in the header, `=`, `\`
/// and line ends in the extension.
fn cef(alert: &Alert) -> String {
    let head = |text: &str| text.replace('\\', "\\\\").replace('|', "\\|").replace(['\r', '\n'], " ");
    let extension = |text: &str| text.replace('\\', "\\\\").replace('=', "\\=").replace('\n', "\\n").replace('\r', "");
    let severity = match (alert.kind, alert.severity) {
        (Kind::Test | Kind::Closed | Kind::Recovered, _) | (_, Severity::Info) => 1,
        (_, Severity::Low) => 4,
        (_, Severity::Medium) => 6,
        (_, Severity::High) => 8,
        (_, Severity::Critical) => 10,
    };
    let name = alert.vectors.first().map_or("agent", String::as_str);
    let mut pairs = vec![
        ("rt", alert.at_ms.to_string()),
        ("start", alert.began_ms.to_string()),
        ("dvchost", alert.node.clone()),
        ("externalId", alert.id.clone()),
        ("cat", alert.kind.as_str().to_owned()),
        ("cs1Label", "incident".to_owned()),
        ("cs1", alert.topic.clone()),
        ("cs2Label", "done".to_owned()),
        ("cs2", alert.facts.get("done").cloned().unwrap_or_default()),
        ("msg", cut(&alert.title, 1023)),
    ];
    pairs.extend(alert.ended_ms.map(|end| ("end", end.to_string())));
    pairs.extend(alert.numbers.get("packets").map(|packets| ("cnt", number(*packets))));
    pairs.extend(
        alert.numbers.get("dropped_packets").map(|n| ("act", if *n > 0.0 { "drop" } else { "none" }.to_owned())),
    );
    let text: Vec<String> = pairs.iter().map(|(key, value)| format!("{key}={}", extension(value))).collect();
    format!(
        "CEF:0|ftagent|ftagent|{}|{}|{}|{severity}|{}",
        env!("CARGO_PKG_VERSION"),
        head(&format!("{name}.{}", alert.kind.as_str())),
        head(&format!("{name} {}", alert.kind.as_str())),
        text.join(" ")
    )
}

#[cfg(test)]
#[path = "syslog/tests.rs"]
mod tests;
