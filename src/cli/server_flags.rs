//! The server's flags, made from the table of settings.

use crate::config::{Kind, SETTINGS, ServerConfig};
use clap::{Arg, ArgMatches, Command, FromArgMatches};
use std::collections::BTreeMap;

/// The flags that were given: setting → text.
#[derive(Debug, Clone, Default)]
pub struct ServerFlags(pub BTreeMap<&'static str, String>);

impl clap::Args for ServerFlags {
    fn augment_args(command: Command) -> Command {
        let defaults = ServerConfig::with_memory(0);
        SETTINGS.iter().fold(command, |command, setting| {
            // The default of `memory` is the machine's; its help line says so.
            let default = setting.get(&defaults).filter(|text| !text.is_empty() && setting.name != "memory");
            let note = match default.as_deref().unwrap_or(setting.automatic) {
                "" => format!("[env: {}]", setting.env()),
                default => format!("[default: {default}] [env: {}]", setting.env()),
            };
            let argument = Arg::new(setting.name)
                .long(setting.flag())
                .value_name(setting.placeholder)
                .help(format!("{} {note}", setting.help))
                .help_heading("Settings")
                .overrides_with(setting.name); // the last one wins, so that a wrapper's flags can be changed
            command.arg(match setting.kind {
                Kind::Boolean => argument.num_args(0..=1).default_missing_value("true"),
                _ => argument.num_args(1),
            })
        })
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for ServerFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut flags = Self::default();
        flags.update_from_arg_matches(matches)?;
        Ok(flags)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        for setting in SETTINGS {
            if let Some(text) = matches.get_one::<String>(setting.name) {
                self.0.insert(setting.name, text.clone());
            }
        }
        Ok(())
    }
}
