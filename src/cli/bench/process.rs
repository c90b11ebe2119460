//! The processes that are measured: a server, or the bare handler, each a child with a folder of its own.

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

/// What is measured: an address, and the process behind it if it is a child.
pub struct Process {
    child: Option<Child>,
    /// `host:port` of its HTTP door.
    pub address: String,
    sys: Sys,
}

impl Process {
    /// A server that somebody else runs.
    pub fn at_url(sys: &Sys, url: &str) -> Result<Self, CliError> {
        let address = url.strip_prefix("http://").map(|rest| rest.trim_end_matches('/'));
        let address = address
            .filter(|a| !a.contains('/'))
            .ok_or_else(|| CliError::usage(format!("--url {url}: write http://HOST:PORT")))?;
        Ok(Self { child: None, address: address.to_owned(), sys: sys.clone() })
    }

    /// This program's server on a fresh folder.
    pub async fn server(sys: &Sys, folder: &Path, more: &[String]) -> Result<Self, CliError> {
        let data = folder.join("data");
        let mut arguments: Vec<String> =
            ["serve", "--http", "127.0.0.1:0", "--kafka", "off", "--peer", "off", "--log-level", "warn"]
                .map(str::to_owned)
                .to_vec();
        arguments.extend(["--data".to_owned(), data.to_string_lossy().into_owned()]);
        arguments.extend_from_slice(more);
        Self::spawn(sys, &arguments, folder.join("server.json")).await
    }

    /// The bare handler.
    pub async fn bare(sys: &Sys, folder: &Path) -> Result<Self, CliError> {
        Self::spawn(sys, &["bench-bare".to_owned()], folder.join("bare.json")).await
    }

    async fn spawn(sys: &Sys, arguments: &[String], ready_file: PathBuf) -> Result<Self, CliError> {
        let failed = |e: std::io::Error| CliError::failed(format!("cannot start {}: {e}", arguments[0]));
        let mut command = Command::new(std::env::current_exe().map_err(failed)?);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("SLUICE_") {
                command.env_remove(name); // settings of whoever runs this are not the measured server's
            }
        }
        command.args(arguments).arg("--ready-file").arg(&ready_file).stdin(Stdio::null()).stdout(Stdio::null());
        let mut process =
            Self { child: Some(command.spawn().map_err(failed)?), address: String::new(), sys: sys.clone() };
        let give_up = Instant::now() + START_TIMEOUT;
        loop {
            if let Ok(text) = sys.disk.read(&ready_file)
                && let Ok(ready) = serde_json::from_slice::<Value>(&text)
            {
                process.address = ready["http"].as_str().unwrap_or_default().to_owned();
                return Ok(process);
            }
            let child = process.child.as_mut().expect("it was just started");
            if let Some(status) = child.try_wait().map_err(failed)? {
                return Err(CliError::failed(format!("{} ended with {status} before it served", arguments[0])));
            }
            if Instant::now() > give_up {
                return Err(CliError::failed(format!("{} does not serve", arguments[0])));
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Processor time that it took so far, in seconds; `None` if it is no child.
    pub fn cpu_seconds(&self) -> Option<f64> {
        let pid = self.child.as_ref()?.id();
        cpu_seconds(&kernel_text(&*self.sys.disk, &format!("/proc/{pid}/stat"))?)
    }

    /// Its resident memory in bytes; `None` if it is no child.
    pub fn resident_bytes(&self) -> Option<u64> {
        let pid = self.child.as_ref()?.id();
        let status = kernel_text(&*self.sys.disk, &format!("/proc/{pid}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill(); // it may have ended by itself
            let _ = child.wait();
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

#[cfg(test)]
mod tests {
    #[test]
    fn processor_time_is_read_behind_any_name() {
        let stat = "12 (a ) b) S 1 2 3 4 5 6 7 8 9 10 250 150 0 0 20 0 5 0 100 1000 1 2";
        assert_eq!(super::cpu_seconds(stat), Some(4.0));
        assert_eq!(super::cpu_seconds("12"), None);
    }
}
