//! GoBGP, by its gRPC API of version 3.
//!
//! A connection is kept for as long as the daemon lives, and a stream of events on it that nobody reads for its
//! events: it ends when the connection does. While it lasts, the daemon did not restart.

mod convert;

use std::{net::SocketAddr, time::Duration};

use tokio::{runtime::Runtime, task::JoinHandle, time::timeout};
use tonic::{
    Code, Status,
    transport::{Channel, Endpoint},
};

use super::{
    Listing, Speaker,
    route::{Kind, Nlri, Route, Seen},
};
use api::gobgp_api_client::GobgpApiClient;

/// What `proto/gobgp.proto` describes.
#[allow(missing_docs, clippy::all, clippy::allow_attributes_without_reason, reason = "it is generated")]
mod api {
    tonic::include_proto!("apipb");
}

/// What an answer may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// What connecting may take.
const CONNECTING: Duration = Duration::from_secs(2);
/// A session that is up (`PeerState.SessionState`).
const ESTABLISHED: u32 = 6;
/// Routes that are read at most: the daemon may hold others' too.
const MOST_ROUTES: usize = 100_000;

type Client = GobgpApiClient<Channel>;

/// Speaks to gobgpd.
pub struct GoBgp {
    address: SocketAddr,
    runtime: Runtime,
    session: Option<Session>,
    /// Connections so far.
    life: u64,
}

struct Session {
    client: Client,
    /// Ends when the connection does.
    watch: JoinHandle<()>,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.watch.abort();
    }
}

impl GoBgp {
    /// Asks nothing yet.
    ///
    /// # Errors
    /// Where this process may not have what it needs to wait for answers.
    pub fn new(address: SocketAddr) -> Result<Self, String> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| format!("speaking to gobgpd needs an event loop: {error}"))?;
        Ok(Self { address, runtime, session: None, life: 0 })
    }

    /// Calls, on a connection that is made where there is none. One on which a call fails for reasons of the
    /// connection is given up.
    fn call<T>(&mut self, deed: impl AsyncFnOnce(&mut Client) -> Result<T, Status>) -> Result<T, String> {
        let address = self.address;
        if self.session.as_ref().is_none_or(|session| session.watch.is_finished()) {
            self.session = None;
            let client = self.runtime.block_on(connect(address))?;
            let watch = self.runtime.spawn(watch(client.clone()));
            self.life += 1;
            self.session = Some(Session { client, watch });
        }
        let Some(session) = &mut self.session else { return Err(away(address, "there is no connection")) };
        let client = &mut session.client;
        let answer = self.runtime.block_on(async {
            let answer = timeout(PATIENCE, deed(client)).await;
            // What there is to know of the connection's end is known behind this.
            tokio::task::yield_now().await;
            answer
        });
        match answer {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(status)) if status.code() == Code::Unknown && !status.message().contains("transport") => {
                // All that GoBGP itself has to say against a call has this code.
                if status.message().contains("hasn't started") {
                    self.session = None;
                    return Err(away(address, "it runs without a BGP instance: give it a configuration"));
                }
                Err(format!("gobgpd refuses: {}", status.message()))
            }
            Ok(Err(status)) if status.code() == Code::Unimplemented => {
                self.session = None;
                Err(format!(
                    "what listens on {address} does not know the API of GoBGP 3: GoBGP 4 and later speak another one, \
                     which is not supported; run gobgpd 3.x (Debian 12 has 3.10)"
                ))
            }
            Ok(Err(status)) => {
                self.session = None;
                Err(away(address, status.message()))
            }
            Err(_) => {
                self.session = None;
                Err(away(address, "it did not answer within 5 s"))
            }
        }
    }
}

fn away(address: SocketAddr, why: &str) -> String {
    format!("gobgpd at {address} does not answer ({why}): is it running, with --api-hosts {address}?")
}

async fn connect(address: SocketAddr) -> Result<Client, String> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"));
    let endpoint = endpoint.map_err(|error| away(address, &error.to_string()))?;
    let endpoint =
        endpoint.connect_timeout(CONNECTING).http2_keep_alive_interval(PATIENCE).keep_alive_timeout(PATIENCE);
    let channel = timeout(CONNECTING, endpoint.connect()).await;
    let channel = channel.map_err(|_| away(address, "no connection within 2 s"))?;
    // The words of the cause, not of what wraps it.
    let why = |error: tonic::transport::Error| {
        let mut cause: &dyn std::error::Error = &error;
        while let Some(next) = cause.source() {
            cause = next;
        }
        away(address, &cause.to_string())
    };
    channel.map(GobgpApiClient::new).map_err(why)
}

/// Lasts as long as the connection.
async fn watch(mut client: Client) {
    let request = api::WatchEventRequest { peer: Some(api::watch_event_request::Peer {}) };
    let Ok(stream) = client.watch_event(request).await else { return };
    let mut stream = stream.into_inner();
    while let Ok(Some(_)) = stream.message().await {}
}

async fn routes(client: &mut Client, kind: Kind) -> Result<Vec<Seen>, Status> {
    let mut found = Vec::new();
    for afi in [1, 2] {
        let safi = if kind == Kind::FlowSpec { 133 } else { 1 };
        let request =
            api::ListPathRequest { table_type: 0, name: String::new(), family: Some(api::Family { afi, safi }) };
        let mut stream = client.list_path(request).await?.into_inner();
        while let Some(answer) = stream.message().await? {
            let paths = answer.destination.map(|destination| destination.paths).unwrap_or_default();
            // What it learned from a neighbour is not this agent's, whatever it carries.
            let own = paths.iter().filter(|path| matches!(path.neighbor_ip.as_str(), "" | "<nil>"));
            found.extend(own.filter_map(convert::seen));
            if found.len() > MOST_ROUTES {
                return Err(Status::resource_exhausted("it has more routes of its own than can be looked through"));
            }
        }
    }
    Ok(found)
}

/// Returns why nobody hears what is announced.
async fn unheard(client: &mut Client) -> Result<Option<String>, Status> {
    let mut stream = client.list_peer(api::ListPeerRequest::default()).await?.into_inner();
    let (mut all, mut up) = (0, 0);
    while let Some(answer) = stream.message().await? {
        let state = answer.peer.and_then(|peer| peer.state).map_or(0, |state| state.session_state);
        all += 1;
        up += u32::from(state == ESTABLISHED);
    }
    Ok((up == 0).then(|| match all {
        0 => "gobgpd has no neighbour that would hear what is announced: configure one".to_owned(),
        _ => format!("none of gobgpd's {all} sessions is up, so nobody hears what is announced: `gobgp neighbor`"),
    }))
}

impl Speaker for GoBgp {
    fn list(&mut self, kind: Kind) -> Result<Listing, String> {
        for _ in 0..2 {
            let (routes, unheard) = self.call(async |client| {
                let routes = routes(client, kind).await?;
                Ok((routes, unheard(client).await?))
            })?;
            // The connection may have been made anew in between, without a word: then once more.
            if self.session.as_ref().is_some_and(|session| !session.watch.is_finished()) {
                return Ok(Listing { routes, life: self.life, unheard });
            }
        }
        Err(away(self.address, "the connection breaks again and again"))
    }

    fn announce(&mut self, route: &Route) -> Result<(), String> {
        let path = Some(convert::path(route));
        self.call(async |client| {
            client.add_path(api::AddPathRequest { table_type: 0, vrf_id: String::new(), path }).await.map(drop)
        })
    }

    fn withdraw(&mut self, route: &Seen) -> Result<(), String> {
        let path = convert::withdrawn(&route.nlri);
        // With neither path nor uuid, it would withdraw everything.
        if path.nlri.as_ref().is_none_or(|nlri| nlri.value.is_empty()) {
            return Err(format!("{} cannot be named to gobgpd: withdraw it with `gobgp global rib del`", route.nlri));
        }
        let family = path.family;
        let request = api::DeletePathRequest { family, path: Some(path), ..Default::default() };
        self.call(async |client| client.delete_path(request).await.map(drop))
    }
}
