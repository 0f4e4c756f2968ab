package config

// Setting is one setting as people and programs look at it.
type Setting struct {
	// Name is the environment variable.
	Name string `json:"name"`
	// Group is the title of the group that it stands in.
	Group string `json:"group"`
	// Value is the one in effect: secrets are redacted, and it is empty for
	// one that is neither set nor has a default, or that is wrong.
	Value string `json:"value"`
	// Default is the value when the variable is unset or empty.
	Default string `json:"default"`
	// Set: the environment sets it.
	Set bool `json:"set"`
	// Secret: the value is never shown.
	Secret bool `json:"secret"`
	// Meaning is one sentence.
	Meaning string `json:"meaning"`
	// Values says in a few words what it may hold.
	Values string `json:"values"`
	// Needed says when it must be set; empty if never.
	Needed string `json:"needed,omitempty"`
	// Example is a value that is right.
	Example string `json:"example"`
	// Problem says what is wrong with it, if anything is.
	Problem string `json:"problem,omitempty"`
}

// Table lists every setting with its value in effect, in the order of the
// documentation.
func (c *Config) Table() []Setting {
	var table []Setting
	for _, f := range fields() {
		setting := f.describe()
		setting.Set = c.facts[f.name].set
		setting.Problem = c.facts[f.name].problem
		if setting.Problem == "" {
			setting.Value = f.render(c.at(f))
		}
		table = append(table, setting)
	}
	return table
}

// Settings lists every setting as `dispatcher serve` would see it. The table is
// whole even if the environment is wrong; the error is then what [LoadServe]
// returns.
func Settings() ([]Setting, error) {
	l := serving().read()
	if l.problems != nil {
		return l.config.Table(), &Error{Problems: l.problems}
	}
	return l.config.Table(), nil
}

// describe is what is known of a setting without an environment.
func (f field) describe() Setting {
	return Setting{
		Name: f.name, Group: f.title, Default: f.def, Secret: f.secret(),
		Meaning: f.meaning, Values: f.values(), Needed: f.needed, Example: f.example,
	}
}
