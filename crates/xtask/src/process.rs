//! Running other programs, from the root of the repository.

use anyhow::{Context, Result, bail};
use std::env;
use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// The root of the repository.
pub fn root() -> PathBuf {
    let manifest_dir = env!("CARGO_MANIFEST_DIR");
    PathBuf::from(manifest_dir).join("../..").canonicalize().expect("xtask runs in the repository that it was built from")
}

/// Cargo's build folder.
pub fn target_dir() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), |dir| root().join(dir))
}

/// Creates a command that runs in the root of the repository. Spaces separate the program and its arguments.
pub fn command(line: &str) -> Command {
    let mut words = line.split_whitespace();
    let mut command = Command::new(words.next().expect("a program"));
    command.args(words).current_dir(root());
    command
}

/// Runs a command. Returns an error if it fails.
pub fn run(command: &mut Command) -> Result<()> {
    let mut child = start(command)?;
    wait(&mut child, command)
}

/// Starts a command.
pub fn start(command: &mut Command) -> Result<Child> {
    let line = line(command);
    println!("$ {line}");
    command.spawn().with_context(|| format!("could not start `{line}`"))
}

/// Waits for a command that [`start`] started. Returns an error if it fails.
pub fn wait(child: &mut Child, command: &Command) -> Result<()> {
    let line = line(command);
    let status = child.wait().with_context(|| format!("could not wait for `{line}`"))?;
    if !status.success() {
        bail!("`{line}` failed: {status}");
    }
    Ok(())
}

/// A command that runs while others do. Its output waits in a file until it ends.
pub struct Background {
    command: Command,
    child: Child,
    log: PathBuf,
}

impl Background {
    /// Starts a command. `name` is that of its file.
    pub fn start(name: &str, mut command: Command) -> Result<Self> {
        let log = target_dir().join(format!("background-{name}.log"));
        let output = File::create(&log).with_context(|| format!("could not write {}", log.display()))?;
        let child = start(command.stderr(output.try_clone()?).stdout(output))?;
        Ok(Self { command, child, log })
    }

    /// Waits for the command and prints its output. Returns an error if it fails.
    pub fn end(mut self) -> Result<()> {
        let ended = wait(&mut self.child, &self.command);
        print!("{}", fs::read_to_string(&self.log).with_context(|| format!("could not read {}", self.log.display()))?);
        ended
    }
}

/// Runs a command and returns its standard output.
pub fn output(command: &mut Command) -> Result<String> {
    let line = line(command);
    let output = command.stderr(Stdio::inherit()).output().with_context(|| format!("could not start `{line}`"))?;
    if !output.status.success() {
        bail!("`{line}` failed: {}\n{}", output.status, String::from_utf8_lossy(&output.stdout));
    }
    Ok(String::from_utf8(output.stdout)?)
}

/// True if a program is on the path.
pub fn installed(program: &str) -> bool {
    path_of(program).is_some()
}

/// Returns the file of a program on the path.
pub fn path_of(program: &str) -> Option<PathBuf> {
    let paths = env::var_os("PATH").unwrap_or_default();
    let files = |dir: PathBuf| [dir.join(program), dir.join(format!("{program}.exe"))];
    env::split_paths(&paths).flat_map(files).find(|file| file.is_file())
}

/// Processor time, user and system, of all child processes that have ended, with their children. `None` where `/proc` does not say.
pub fn processor_time() -> Option<Duration> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The program's name, in parentheses, may hold spaces. The fields after it begin with the third; `cutime` and `cstime` are 16 and 17.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = fields.get(13)?.parse::<u64>().ok()? + fields.get(14)?.parse::<u64>().ok()?;
    // Linux counts 100 ticks a second on every machine that this runs on (`getconf CLK_TCK`).
    Some(Duration::from_millis(ticks * 10))
}

fn line(command: &Command) -> String {
    let mut line = command.get_program().to_string_lossy().into_owned();
    for argument in command.get_args() {
        line.push(' ');
        line.push_str(&argument.to_string_lossy());
    }
    line
}
