// Reads files of deploy/ with the libraries of the programs that will read them, and prints JSON for checks.py and cluster.py.
//
//	deploy compose FILE    the project of a compose file, as `docker compose config` resolves it
//	deploy promql          the metrics and labels that each expression of a JSON array on stdin selects
//	deploy context ROOT    the files of the build context: those that .dockerignore leaves
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/moby/patternmatcher"
	"github.com/moby/patternmatcher/ignorefile"
	"github.com/prometheus/prometheus/promql/parser"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintf(os.Stderr, "deploy: %v\n", err)
		os.Exit(1)
	}
}

func run(arguments []string) error {
	if len(arguments) == 1 && arguments[0] == "promql" {
		return promql()
	}
	if len(arguments) == 2 {
		switch arguments[0] {
		case "compose":
			return compose(arguments[1])
		case "context":
			return buildContext(arguments[1])
		}
	}
	return fmt.Errorf("unknown arguments %q: the comment of main.go lists them", arguments)
}

func compose(file string) error {
	options, err := cli.NewProjectOptions([]string{file}, cli.WithResolvedPaths(true))
	if err != nil {
		return err
	}
	// Checks the file against the schema of compose files, and that its services, networks and volumes exist.
	project, err := options.LoadProject(context.Background())
	if err != nil {
		return err
	}
	out, err := project.MarshalJSON()
	if err != nil {
		return err
	}
	_, err = os.Stdout.Write(out)
	return err
}

type selected struct {
	Metric string   `json:"metric"`
	Labels []string `json:"labels"`
}

func promql() error {
	var expressions []string
	if err := json.NewDecoder(os.Stdin).Decode(&expressions); err != nil {
		return err
	}
	all := make([][]selected, 0, len(expressions))
	for _, text := range expressions {
		expression, err := parser.NewParser(parser.Options{}).ParseExpr(text)
		if err != nil {
			return fmt.Errorf("%s: %w", text, err)
		}
		found := []selected{}
		parser.Inspect(expression, func(node parser.Node, _ []parser.Node) error {
			if selector, is := node.(*parser.VectorSelector); is {
				one := selected{Metric: selector.Name, Labels: []string{}}
				for _, matcher := range selector.LabelMatchers {
					if matcher.Name != "__name__" {
						one.Labels = append(one.Labels, matcher.Name)
					}
				}
				found = append(found, one)
			}
			return nil
		})
		all = append(all, found)
	}
	return json.NewEncoder(os.Stdout).Encode(all)
}

func buildContext(root string) error {
	file, err := os.Open(filepath.Join(root, ".dockerignore"))
	if err != nil {
		return err
	}
	defer file.Close()
	patterns, err := ignorefile.ReadAll(file)
	if err != nil {
		return err
	}
	matcher, err := patternmatcher.New(patterns)
	if err != nil {
		return err
	}
	kept := []string{}
	err = filepath.WalkDir(root, func(path string, entry os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(root, path)
		if err != nil || name == "." {
			return err
		}
		// They are large, and no pattern names them.
		if entry.IsDir() && (name == "target" || name == ".git") {
			return filepath.SkipDir
		}
		if entry.IsDir() {
			return nil
		}
		ignored, err := matcher.MatchesOrParentMatches(name)
		if err == nil && !ignored {
			kept = append(kept, name)
		}
		return err
	})
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(kept)
}
