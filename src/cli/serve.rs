//! `sluice serve`: configuration in, a server that runs until it is told to stop.

use super::{CliError, logging, server_flags::ServerFlags, signals::Signals};
use crate::config::{self, LogFormat, ServerConfig, Sources};
use crate::server::{Server, StartError};
use crate::sys::Sys;
use std::{
    io::Write as _,
    path::{Path, PathBuf},
    time::Duration,
};

/// The start is quiet when it takes less than this, and says how far it is this often when it takes longer.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);

/// Run the server (the default command)
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct ServeArgs {
    /// A TOML file with settings; flags and the environment win over it [env: SLUICE_CONFIG]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print the configuration in effect as TOML, with where each value comes from, and end
    #[arg(long)]
    print_config: bool,
    #[command(flatten)]
    flags: ServerFlags,
}

#[cfg(test)]
impl ServeArgs {
    pub(super) fn flag(&self, setting: &str) -> Option<&str> {
        self.flags.0.get(setting).map(String::as_str)
    }
}

const EXAMPLES: &str = "\
Every setting has one name in three places: `log.segment-bytes` in the file, --log-segment-bytes, SLUICE_LOG_SEGMENT_BYTES.
Flags win over the environment, the environment over the file.

Examples:
  sluice serve
  sluice serve --http 0.0.0.0:8080 --advertised-http games.example.org:8080
  sluice serve --config /etc/sluice.toml --print-config
  SLUICE_FLUSH=os sluice serve --kafka off

SIGTERM and SIGINT drain, at most 30 s; a second one exits at once. A server whose metadata can not be written any
more drains and ends with status 1: start it anew.
Exit status: 0 done, 1 failed, 2 wrong usage or configuration, 3 the data folder cannot be used.";

/// Serves until a signal comes.
///
/// # Errors
/// What kept it from starting.
pub async fn run(args: ServeArgs) -> Result<(), CliError> {
    let sys = Sys::real();
    let sources = Sources { file: args.config, environment: environment(), flags: args.flags.0 };
    let effective = config::load(&sources, &*sys.disk)
        .map_err(|e| CliError::usage(format!("the configuration cannot be used:\n{e}")))?;
    if args.print_config {
        return Ok(std::io::stdout().write_all(effective.to_toml().as_bytes())?);
    }
    let config = effective.config;
    logging::start(&config);
    // From here on a signal finds somebody, also while the logs are recovered.
    let mut signals = Signals::new()?;
    let server = tokio::select! {
        biased;
        () = signals.next() => return Ok(()),
        started = start(&config, &sys) => started?,
    };
    let ready = config.ready_file.as_deref().map(|path| ReadyFile { path, sys: &sys });
    if let Some(file) = &ready {
        file.write(&config, &server)?;
    }
    announce(&config, &server);
    // A server that can not change anything any more would look alive to whoever only sees its process: it ends, so
    // that its supervisor starts it anew.
    let failure = tokio::select! {
        biased;
        () = signals.next() => None,
        reason = server.failed() => Some(reason),
    };
    drop(ready); // who looks for it shall find the next server's, not this one's
    match &failure {
        None => tracing::info!("draining: a second signal exits at once"),
        Some(reason) => tracing::error!(reason, "the server can not go on: draining, and ending with status 1"),
    }
    tokio::select! {
        biased;
        () = signals.next() => return Err(CliError::failed("stopped before everything was written")),
        () = server.drain() => {}
    }
    failure.map_or(Ok(()), |reason| Err(CliError::failed(format!("the server could not go on: {reason}"))))
}

/// The variables of the server's family. One that is not UTF-8 is no valid value of any setting, and shown as well as
/// it can be.
fn environment() -> Vec<(String, String)> {
    let mut variables: Vec<_> = std::env::vars_os()
        .map(|(name, value)| (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned()))
        .filter(|(name, _)| name.starts_with("SLUICE_"))
        .collect();
    variables.sort();
    variables
}

async fn start(config: &ServerConfig, sys: &Sys) -> Result<Server, CliError> {
    let starting = Server::start(config.clone(), sys.clone());
    tokio::pin!(starting);
    let mut seconds = 0;
    loop {
        match tokio::time::timeout(PROGRESS_INTERVAL, &mut starting).await {
            Ok(Ok(server)) => return Ok(server),
            Ok(Err(e)) => return Err(refused(&e)),
            Err(_) => {
                seconds += 1;
                tracing::info!(seconds, data = %config.data.display(), "opening the data folder");
            }
        }
    }
}

fn refused(e: &StartError) -> CliError {
    let text = e.to_string();
    if e.is_data_folder() { CliError::data_folder(text) } else { CliError::failed(text) }
}

/// Says where it serves: lines to try on a terminal, one log line elsewhere.
fn announce(config: &ServerConfig, server: &Server) {
    if logging::format(config) == LogFormat::Json {
        let show = |address: Option<std::net::SocketAddr>| address.map_or("off".to_owned(), |a| a.to_string());
        tracing::info!(
            http = show(server.http_addr()),
            kafka = show(server.kafka_addr()),
            data = %config.data.display(),
            "serving"
        );
        return;
    }
    eprintln!("sluice {} serves; data in {}", env!("CARGO_PKG_VERSION"), config.data.display());
    if let Some(address) = server.http_addr() {
        eprintln!("  HTTP   http://{address}/   (console; API at http://{address}/docs)");
    }
    if let Some(address) = server.kafka_addr() {
        eprintln!("  Kafka  {address}   (--bootstrap-server {address})");
    }
    if let Some(address) = server.http_addr() {
        eprintln!(
            "Try:\n  curl --json '{{\"home\":1,\"away\":0}}' 'http://{address}/v1/topics/games/events?key=match-1'"
        );
        eprintln!("  curl 'http://{address}/v1/topics/games/records'");
    }
}

/// The file that says that it serves, and where; gone when this is dropped.
struct ReadyFile<'a> {
    path: &'a Path,
    sys: &'a Sys,
}

impl ReadyFile<'_> {
    fn write(&self, config: &ServerConfig, server: &Server) -> Result<(), CliError> {
        let mut ready = serde_json::Map::new();
        if let Some(address) = server.http_addr() {
            ready.insert("http".to_owned(), address.to_string().into());
        }
        if let Some(address) = server.kafka_addr() {
            ready.insert("kafka".to_owned(), address.to_string().into());
        }
        ready.insert("node_id".to_owned(), config.node_id.get().into());
        ready.insert("pid".to_owned(), std::process::id().into());
        let mut text = serde_json::Value::Object(ready).to_string();
        text.push('\n');
        self.sys
            .disk
            .write_atomic(self.path, text.as_bytes())
            .map_err(|e| CliError::failed(format!("cannot write the ready-file {}: {e}", self.path.display())))
    }
}

impl Drop for ReadyFile<'_> {
    fn drop(&mut self) {
        let _ = self.sys.disk.remove_file(self.path); // somebody else may have removed it
    }
}
