package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/sidegate-proxy/sidegate/cmd/sidegate/internal/config"
)

func fmtCommand() *cobra.Command {
	var check bool
	c := &cobra.Command{
		Use:   "fmt [FILE or FOLDER ...]",
		Short: "Format configuration files",
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) == 0 {
				args = []string{defaultConfig}
			}
			files, err := hclFiles(args)
			if err != nil {
				return err
			}
			changed := 0
			for _, f := range files {
				src, err := os.ReadFile(f)
				if err != nil {
					return err
				}
				out, err := config.Format(f, src)
				if err != nil {
					return fmt.Errorf("%s: %w", f, err)
				}
				if bytes.Equal(src, out) {
					continue
				}
				changed++
				fmt.Fprintln(c.OutOrStdout(), f)
				if check {
					continue
				}
				info, err := os.Stat(f)
				if err != nil {
					return err
				}
				if err := os.WriteFile(f, out, info.Mode().Perm()); err != nil {
					return err
				}
			}
			if check && changed > 0 {
				return fmt.Errorf("%d files aren't formatted", changed)
			}
			return nil
		},
	}
	c.Flags().BoolVar(&check, "check", false, "only list the files that would change, and fail if there are any")
	return c
}

func hclFiles(args []string) ([]string, error) {
	var files []string
	for _, a := range args {
		info, err := os.Stat(a)
		if err != nil {
			return nil, err
		}
		if !info.IsDir() {
			files = append(files, a)
			continue
		}
		more, err := filepath.Glob(filepath.Join(a, "*.hcl"))
		if err != nil {
			return nil, err
		}
		files = append(files, more...)
	}
	return files, nil
}
