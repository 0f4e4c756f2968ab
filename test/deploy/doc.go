// Package deploy tests what stands in the folder deploy without a cluster: that
// manifests, permissions and policies say what the code needs, and no more.
package deploy
