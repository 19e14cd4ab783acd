//! Where alerts arrive: a web server on the loopback that takes what it is sent.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

/// More than any alert has.
const LONGEST: usize = 1 << 20;

/// What arrived.
#[derive(Clone, Debug)]
pub struct Arrived {
    /// When.
    pub at: Instant,
    /// Its kind: `opened`, `escalated`, …
    pub kind: String,
    /// Its first line.
    pub title: String,
}

/// The server; it serves for the rest of the demo.
pub struct Sink {
    address: SocketAddr,
    arrived: Arc<Mutex<Vec<Arrived>>>,
}

impl Sink {
    /// Begins to serve on this host.
    pub fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").context("the alerts' sink")?;
        let address = listener.local_addr()?;
        let arrived = Arc::<Mutex<Vec<Arrived>>>::default();
        let all = Arc::clone(&arrived);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                match take(stream) {
                    Ok(one) => all.lock().unwrap_or_else(PoisonError::into_inner).push(one),
                    Err(error) => eprintln!("the alerts' sink: {error:#}"),
                }
            }
        });
        Ok(Self { address, arrived })
    }

    /// Where it is.
    pub fn url(&self) -> String {
        format!("http://{}/alerts", self.address)
    }

    /// Everything that arrived so far.
    pub fn arrived(&self) -> Vec<Arrived> {
        self.arrived.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn take(mut stream: TcpStream) -> Result<Arrived> {
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let (mut length, mut line) = (0, String::new());
    loop {
        line.clear();
        ensure!(reader.read_line(&mut line)? > 0, "it ended in its head");
        match line.trim_end().split_once(':') {
            Some((name, value)) if name.eq_ignore_ascii_case("content-length") => length = value.trim().parse()?,
            _ if line.trim_end().is_empty() => break,
            _ => {}
        }
    }
    ensure!(length <= LONGEST, "a body of {length} bytes");
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let at = Instant::now();
    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")?;
    let body: Value = serde_json::from_slice(&body)?;
    let text = |value: &Value| value.as_str().unwrap_or("?").to_owned();
    Ok(Arrived { at, kind: text(&body["data"]["kind"]), title: text(&body["data"]["title"]) })
}
