//! Makes a value that fits a schema.

use serde_json::{Map, Number, Value};

use super::pattern;
use super::rules::Rules;
use crate::dice::Dice;

/// The depth down to which a schema is followed.
const MAX_DEPTH: usize = 24;
/// The depth from which optional parts are left out, which ends recursive schemas.
const SHORT_DEPTH: usize = 8;
/// The most values in one instance. Above it, optional parts are left out.
const MAX_VALUES: usize = 4096;
/// The hard limit of values in one instance, whatever the schema requires. It bounds the memory and
/// the time of the simulator.
const LAST_VALUE: usize = 20_000;
/// The most bytes of padding (`minLength`) in all strings of one instance.
const MAX_PADDING: usize = 1024 * 1024;
/// The most items of one array.
const MAX_ITEMS: usize = 1000;

/// Returns an instance of `schema`, derived from `seed`.
///
/// Understood are `type`, `enum`, `const`, `properties`, `required`, `additionalProperties`,
/// `items`, `prefixItems`, `anyOf`, `oneOf`, `allOf`, `$ref` within the schema, the bounds of
/// numbers, strings, arrays and objects, `multipleOf`, `uniqueItems`, `pattern` and the usual
/// formats.
pub(crate) fn instance(schema: &Value, seed: u64) -> Value {
    let mut maker = Maker {
        root: schema,
        dice: Dice::new(seed),
        values: 0,
        padding: MAX_PADDING,
    };
    maker.make(&[schema], "value", 0)
}

struct Maker<'a> {
    root: &'a Value,
    dice: Dice,
    values: usize,
    padding: usize,
}

// === impl Maker ===

impl<'a> Maker<'a> {
    /// Makes a value that fits all of `schemas`. `name` is the property that it is for.
    fn make(&mut self, schemas: &[&'a Value], name: &str, depth: usize) -> Value {
        self.values += 1;
        if depth > MAX_DEPTH || self.values > LAST_VALUE {
            return Value::Null;
        }
        let shortest = depth > SHORT_DEPTH || self.values > MAX_VALUES;
        let rules = Rules::of(self.root, schemas, shortest);
        if let Some(value) = rules.constant() {
            return value.clone();
        }
        if let Some(values) = rules.choices().filter(|values| !values.is_empty()) {
            return values[self.pick(values.len())].clone();
        }
        // Without any rule, the parameters of a function and an answer are objects.
        let usual = if depth == 0 { "object" } else { "string" };
        match rules.kind(shortest).unwrap_or(usual) {
            "object" => self.object(&rules, depth, shortest),
            "array" => self.array(&rules, name, depth, shortest),
            "integer" => self.integer(&rules),
            "number" => self.number(&rules),
            "boolean" => Value::Bool(self.dice.roll().is_multiple_of(2)),
            "null" => Value::Null,
            _ => self.string(&rules, name),
        }
    }

    fn object(&mut self, rules: &Rules<'a>, depth: usize, shortest: bool) -> Value {
        let required = rules.required();
        let most = rules.most("maxProperties").unwrap_or(usize::MAX);
        let mut members = Map::new();
        let properties = rules.properties();
        let optional = properties
            .iter()
            .filter(|(key, _)| !required.contains(key))
            .count();
        let room = most.saturating_sub(properties.len() - optional);
        let mut left_out = optional.saturating_sub(if shortest { 0 } else { room });
        for (key, schemas) in properties {
            if left_out > 0 && !required.contains(&key) {
                left_out -= 1;
                continue;
            }
            members.insert(key.to_owned(), self.make(&schemas, key, depth + 1));
        }
        let others = rules.schemas("additionalProperties");
        for key in required {
            if !members.contains_key(key) {
                members.insert(key.to_owned(), self.make(&others, key, depth + 1));
            }
        }
        let least = rules.least("minProperties").unwrap_or(0).min(64);
        while members.len() < least {
            let key = format!("key_{}", members.len() + 1);
            let value = self.make(&others, &key, depth + 1);
            members.insert(key, value);
        }
        Value::Object(members)
    }

    fn array(&mut self, rules: &Rules<'a>, name: &str, depth: usize, shortest: bool) -> Value {
        let least = rules.least("minItems").unwrap_or(0).min(MAX_ITEMS);
        let most = rules.most("maxItems").unwrap_or(usize::MAX);
        let usual = if shortest { 0 } else { 2 };
        let length = usual.max(rules.prefix()).max(least).min(most.max(least));
        let singular = name.strip_suffix('s').unwrap_or(name);
        let distinct = rules.flag("uniqueItems");
        let mut items: Vec<Value> = Vec::with_capacity(length);
        // An enum may have fewer values than there are items, so tries are bounded.
        let mut tries = 8 * length;
        while items.len() < length && tries > 0 && self.values <= LAST_VALUE {
            tries -= 1;
            let item = self.make(&rules.item(items.len()), singular, depth + 1);
            if !distinct || !items.contains(&item) {
                items.push(item);
            }
        }
        Value::Array(items)
    }

    fn integer(&mut self, rules: &Rules<'_>) -> Value {
        // A step such as 0.5 allows each integer; one such as 2.5 each second multiple.
        let step = rules.step().map_or(1.0, |step| {
            (1..=1000_u32)
                .map(|factor| step * f64::from(factor))
                .find(|multiple| multiple.fract() == 0.0)
                .unwrap_or(1.0)
        });
        let (low, high) = steps(rules, step);
        let multiple = self.between(low, high);
        Value::from(multiple.saturating_mul(step as i64))
    }

    fn number(&mut self, rules: &Rules<'_>) -> Value {
        if let Some(step) = rules.step() {
            let (low, high) = steps(rules, step);
            // 3 × 0.1 is not 0.3, but 3 / 10 is.
            let parts = (1.0 / step).round();
            let is_fraction = step < 1.0 && (parts * step - 1.0).abs() < 1e-9;
            let mut value = 0.0;
            // Validators divide, and 0.6 / 0.1 is not 6, so a multiple with an exact quotient is
            // looked for.
            for _ in 0..32 {
                let multiple = self.between(low, high) as f64;
                value = if is_fraction {
                    multiple / parts
                } else {
                    multiple * step
                };
                if (value / step).fract() == 0.0 {
                    break;
                }
            }
            return number(value);
        }
        let range = rules.range();
        let (low, high) = match (range.low, range.high) {
            (Some((low, _)), Some((high, _))) => (low, high.max(low)),
            (Some((low, _)), None) => (low, low + 100.0),
            (None, Some((high, _))) => (high - 100.0, high),
            (None, None) => (1.0, 100.0),
        };
        // Never 0 or 1, so that the bounds themselves are not met.
        let share = (self.dice.roll() % 9999 + 1) as f64 / 10_000.0;
        let exact = low + (high - low) * share;
        // Hundredths are easier to read, unless the range is finer than that.
        let rounded = (exact * 100.0).round() / 100.0;
        number(if low < rounded && rounded < high {
            rounded
        } else {
            exact
        })
    }

    fn string(&mut self, rules: &Rules<'_>, name: &str) -> Value {
        self.values += 1;
        let least = rules.least("minLength").unwrap_or(0);
        let most = rules.most("maxLength").unwrap_or(usize::MAX);
        if let Some(text) = rules
            .text("pattern")
            .and_then(|pattern| pattern::matching(pattern, least, &mut self.dice))
        {
            return Value::String(text);
        }
        let roll = self.dice.roll();
        if let Some(text) = rules
            .text("format")
            .and_then(|format| formatted(format, roll))
        {
            return Value::String(text);
        }
        let mut text =
            known(name, roll).map_or_else(|| format!("{name} {}", roll % 100), str::to_owned);
        let length = text.chars().count();
        if length > most {
            text = text.chars().take(most).collect();
        } else if length < least {
            let padding = (least - length).min(self.padding);
            self.padding -= padding;
            text.extend(std::iter::repeat_n('x', padding));
        }
        Value::String(text)
    }

    fn pick(&mut self, length: usize) -> usize {
        (self.dice.roll() % length.max(1) as u64) as usize
    }

    /// Returns an integer of a closed range.
    fn between(&mut self, low: i64, high: i64) -> i64 {
        let span = high.max(low).saturating_sub(low).saturating_add(1).max(1);
        low.saturating_add((self.dice.roll() % span as u64) as i64)
    }
}

/// Returns the least and the largest multiple of `step` in the range of `rules`.
fn steps(rules: &Rules<'_>, step: f64) -> (i64, i64) {
    let range = rules.range();
    let low = range.low.map(|(low, open)| {
        let first = (low / step).ceil();
        let is_bound = open && first * step <= low;
        first as i64 + i64::from(is_bound)
    });
    let high = range.high.map(|(high, open)| {
        let last = (high / step).floor();
        let is_bound = open && last * step >= high;
        (last as i64).saturating_sub(i64::from(is_bound))
    });
    match (low, high) {
        (Some(low), Some(high)) => (low, high),
        (Some(low), None) => (low, low.saturating_add(100)),
        (None, Some(high)) => (high.saturating_sub(100), high),
        (None, None) => (1, 100),
    }
}

fn number(value: f64) -> Value {
    Number::from_f64(value).map_or(Value::Null, Value::Number)
}

/// Returns a string of a format.
fn formatted(format: &str, roll: u64) -> Option<String> {
    Some(match format {
        "date-time" => format!("2026-03-{:02}T09:30:00Z", roll % 28 + 1),
        "date" => format!("2026-03-{:02}", roll % 28 + 1),
        "time" => "09:30:00Z".to_owned(),
        "duration" => "P1DT2H".to_owned(),
        "email" | "idn-email" => "ada@example.com".to_owned(),
        "hostname" | "idn-hostname" => "host.example.com".to_owned(),
        "ipv4" => format!("192.0.2.{}", roll % 254 + 1),
        "ipv6" => "2001:db8::1".to_owned(),
        "uuid" => "0f8fad5b-d9cb-469f-a165-70867728950e".to_owned(),
        "uri" | "url" | "iri" | "uri-reference" | "iri-reference" => {
            "https://example.com/".to_owned()
        }
        "json-pointer" => "/items/0".to_owned(),
        "regex" => "^[a-z]+$".to_owned(),
        _ => return None,
    })
}

/// Returns a realistic value for a property with a common name.
fn known(name: &str, roll: u64) -> Option<&'static str> {
    let values: &[&str] = match name.to_lowercase().as_str() {
        "city" | "location" | "place" => &["Paris", "Lagos", "Kyoto", "Lima"],
        "country" => &["France", "Nigeria", "Japan", "Peru"],
        "name" => &["Ada", "Grace", "Edsger", "Barbara"],
        "query" | "question" => &["what is streaming?"],
        "language" | "lang" => &["en"],
        "timezone" => &["UTC"],
        _ => return None,
    };
    values.get((roll % values.len() as u64) as usize).copied()
}
