//! The processes that are measured: a server, or the bare handler, each a child with a folder of its own.

use super::http1::{Connection, request};
use crate::cli::CliError;
use crate::config::kernel_text;
use crate::sys::{OsRng, Rng as _, Sys};
use serde_json::Value;
use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};
use tokio::time::Instant;

const START_TIMEOUT: Duration = Duration::from_secs(60);
/// How often a start is looked at; it may take no more than some milliseconds.
const START_POLL: Duration = Duration::from_millis(1);
/// `USER_HZ`, in which Linux counts processor time for programs; 100 on every architecture.
const TICKS_PER_SECOND: f64 = 100.0;
/// Descriptors for thousands of subscribers, here and in the children, which inherit the limit.
const DESCRIPTORS: u64 = 65_536;

/// A folder for this run, removed with this value.
pub struct Folder {
    path: PathBuf,
    sys: Sys,
}

impl Folder {
    /// Makes one in `parent`.
    pub fn new(sys: &Sys, parent: &Path) -> Result<Self, CliError> {
        let path = parent.join(format!("sluice-bench-{:016x}", OsRng.next_u64()));
        sys.disk
            .create_dir_all(&path)
            .map_err(|e| CliError::failed(format!("cannot make the folder {}: {e}", path.display())))?;
        Ok(Self { path, sys: sys.clone() })
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = self.sys.disk.remove_dir_all(&self.path); // left for whoever cleans up
    }
}

/// What a process took so far, or in a while: in seconds of processor time.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Costs {
    /// Of the measured process; `None` if it is no child.
    pub server: Option<f64>,
    /// Of the load generator.
    pub client: f64,
}

impl Costs {
    /// What came since then.
    pub fn since(&self, before: &Self) -> Self {
        let server = self.server.zip(before.server).map(|(after, before)| after - before);
        Self { server, client: self.client - before.client }
    }
}

/// What is measured: an address, and the process behind it if it is a child.
pub struct Process {
    child: Option<Child>,
    /// `host:port` of its HTTP door.
    pub address: String,
    /// How long its last start took, until it answered that it is ready.
    pub started_in: Duration,
    sys: Sys,
    start: Option<Start>,
}

/// How a child is started, once more too.
struct Start {
    arguments: Vec<String>,
    ready_file: PathBuf,
    data: Option<PathBuf>,
}

impl Process {
    /// A server that somebody else runs.
    pub fn at_url(sys: &Sys, url: &str) -> Result<Self, CliError> {
        let address = url.strip_prefix("http://").map(|rest| rest.trim_end_matches('/'));
        let address = address
            .filter(|a| !a.contains('/'))
            .ok_or_else(|| CliError::usage(format!("--url {url}: write http://HOST:PORT")))?;
        let started_in = Duration::ZERO;
        Ok(Self { child: None, address: address.to_owned(), started_in, sys: sys.clone(), start: None })
    }

    /// This program's server on a fresh folder, which goes with it.
    pub async fn server(sys: &Sys, folder: &Path, more: &[String]) -> Result<Self, CliError> {
        let name = format!("{:016x}", OsRng.next_u64());
        let data = folder.join(format!("data-{name}"));
        let mut arguments: Vec<String> =
            ["serve", "--http", "127.0.0.1:0", "--kafka", "off", "--peer", "off", "--log-level", "warn"]
                .map(str::to_owned)
                .to_vec();
        arguments.extend(["--data".to_owned(), data.to_string_lossy().into_owned()]);
        arguments.extend_from_slice(more);
        let ready_file = folder.join(format!("ready-{name}.json"));
        Self::spawn(sys, Start { arguments, ready_file, data: Some(data) }).await
    }

    /// The bare handler.
    pub async fn bare(sys: &Sys, folder: &Path) -> Result<Self, CliError> {
        let arguments = vec!["bench-bare".to_owned()];
        let ready_file = folder.join(format!("bare-{:016x}.json", OsRng.next_u64()));
        Self::spawn(sys, Start { arguments, ready_file, data: None }).await
    }

    async fn spawn(sys: &Sys, start: Start) -> Result<Self, CliError> {
        let (address, started_in) = (String::new(), Duration::ZERO);
        let mut process = Self { child: None, address, started_in, sys: sys.clone(), start: Some(start) };
        process.again().await?;
        Ok(process)
    }

    /// Starts the child, for the first time or again on the same data.
    pub async fn again(&mut self) -> Result<(), CliError> {
        self.kill();
        let start = self.start.as_ref().expect("only a child is started");
        let what = &start.arguments[0];
        let failed = |e: std::io::Error| CliError::failed(format!("cannot start {what}: {e}"));
        let _ = self.sys.disk.remove_file(&start.ready_file); // it is not there the first time
        let mut command = Command::new(std::env::current_exe().map_err(failed)?);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("SLUICE_") {
                command.env_remove(name); // settings of whoever runs this are not the measured server's
            }
        }
        command.args(&start.arguments).arg("--ready-file").arg(&start.ready_file);
        let started = Instant::now();
        let child = self.child.insert(command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().map_err(failed)?);
        loop {
            if let Ok(text) = self.sys.disk.read(&start.ready_file)
                && let Ok(ready) = serde_json::from_slice::<Value>(&text)
            {
                self.address = ready["http"].as_str().unwrap_or_default().to_owned();
                break;
            }
            if let Some(status) = child.try_wait().map_err(failed)? {
                return Err(CliError::failed(format!("{what} ended with {status} before it served")));
            }
            if started.elapsed() > START_TIMEOUT {
                return Err(CliError::failed(format!("{what} does not serve")));
            }
            tokio::time::sleep(START_POLL).await;
        }
        let ready = request(&self.address, "GET", "/readyz", "", b"");
        loop {
            let answer = match Connection::open(&self.sys, &self.address).await {
                Ok(mut connection) => connection.exchange(&ready, &mut Vec::new()).await,
                Err(e) => Err(e),
            };
            match answer {
                Ok(200) => {
                    self.started_in = started.elapsed();
                    return Ok(());
                }
                _ if started.elapsed() > START_TIMEOUT => {
                    return Err(CliError::failed(format!("{what} does not become ready")));
                }
                _ => tokio::time::sleep(START_POLL).await,
            }
        }
    }

    /// Kills the child (`SIGKILL`), if it is one, and waits until it is gone.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill(); // it may have ended by itself
            let _ = child.wait();
        }
    }

    /// Processor time so far.
    pub fn costs(&self) -> Costs {
        let disk = &*self.sys.disk;
        let of = |path: &str| cpu_seconds(&kernel_text(disk, path)?);
        let server = self.pid().and_then(|pid| of(&format!("/proc/{pid}/stat")));
        Costs { server, client: of("/proc/self/stat").unwrap_or_default() }
    }

    /// Its resident memory in bytes; `None` if it is no child.
    pub fn resident_bytes(&self) -> Option<u64> {
        let status = kernel_text(&*self.sys.disk, &format!("/proc/{}/status", self.pid()?))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
    }

    /// Its open descriptors; `None` if it is no child.
    pub fn descriptors(&self) -> Option<u64> {
        let entries = self.sys.disk.read_dir(Path::new(&format!("/proc/{}/fd", self.pid()?))).ok()?;
        Some(entries.len() as u64)
    }

    fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if let Some(data) = self.start.as_ref().and_then(|start| start.data.as_ref()) {
            let _ = self.sys.disk.remove_dir_all(data); // left for whoever cleans up
        }
    }
}

/// User and system time from `/proc/PID/stat` (proc_pid_stat(5)); the name in it may hold blanks and brackets.
fn cpu_seconds(stat: &str) -> Option<f64> {
    let mut fields = stat[stat.rfind(')')? + 1..].split_whitespace().skip(11);
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some((user + system) / TICKS_PER_SECOND)
}

/// Raises the limit of open files as far as it is allowed.
pub fn raise_descriptors() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let wanted = limit.maximum.map_or(DESCRIPTORS, |most| most.min(DESCRIPTORS));
    if limit.current.is_some_and(|current| current < wanted) {
        let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum: limit.maximum });
    }
}

/// How many files may be open, here and in a child.
pub fn descriptor_limit() -> u64 {
    use rustix::process::{Resource, getrlimit};
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    #[test]
    fn processor_time_is_read_behind_any_name() {
        let stat = "12 (a ) b) S 1 2 3 4 5 6 7 8 9 10 250 150 0 0 20 0 5 0 100 1000 1 2";
        assert_eq!(super::cpu_seconds(stat), Some(4.0));
        assert_eq!(super::cpu_seconds("12"), None);
    }
}
