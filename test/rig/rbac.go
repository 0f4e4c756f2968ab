package rig

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/yaml"
)

// ApplyRBAC creates in a namespace what a shipped manifest says about service
// accounts, roles and their bindings, and nothing else. It refuses anything
// that reaches beyond the namespace.
func (c *Cluster) ApplyRBAC(ctx context.Context, namespace, manifest string) error {
	file, err := os.Open(manifest)
	if err != nil {
		return fmt.Errorf("open the shipped permissions: %w", err)
	}
	defer func() { _ = file.Close() }()
	reader := yaml.NewYAMLReader(bufio.NewReader(file))
	for {
		document, err := reader.Read()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read %s: %w", manifest, err)
		}
		if err := c.applyRBAC(ctx, namespace, document); err != nil {
			return fmt.Errorf("apply %s: %w", manifest, err)
		}
	}
}

func (c *Cluster) applyRBAC(ctx context.Context, namespace string, document []byte) error {
	var kind metav1.TypeMeta
	if err := yaml.Unmarshal(document, &kind); err != nil {
		return fmt.Errorf("decode: %w", err)
	}
	var err error
	switch kind.Kind {
	case "", "Namespace": // nothing but comments; and a namespace is there already
		return nil
	case "ServiceAccount":
		var account corev1.ServiceAccount
		if err := yaml.UnmarshalStrict(document, &account); err != nil {
			return fmt.Errorf("decode service account: %w", err)
		}
		account.Namespace = namespace
		_, err = c.Client.CoreV1().ServiceAccounts(namespace).Create(ctx, &account, metav1.CreateOptions{})
	case "Role":
		var role rbacv1.Role
		if err := yaml.UnmarshalStrict(document, &role); err != nil {
			return fmt.Errorf("decode role: %w", err)
		}
		role.Namespace = namespace
		_, err = c.Client.RbacV1().Roles(namespace).Create(ctx, &role, metav1.CreateOptions{})
	case "RoleBinding":
		var binding rbacv1.RoleBinding
		if err := yaml.UnmarshalStrict(document, &binding); err != nil {
			return fmt.Errorf("decode role binding: %w", err)
		}
		binding.Namespace = namespace
		for i := range binding.Subjects {
			if binding.Subjects[i].Kind == rbacv1.ServiceAccountKind {
				binding.Subjects[i].Namespace = namespace
			}
		}
		_, err = c.Client.RbacV1().RoleBindings(namespace).Create(ctx, &binding, metav1.CreateOptions{})
	default:
		return fmt.Errorf("a %s reaches beyond a namespace, or is no permission", kind.Kind)
	}
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("create %s: %w", kind.Kind, err)
	}
	return nil
}

// RevokeRBAC takes from a namespace all that binds roles, and returns once the
// service account can launch nothing there: the API server hears of it a moment
// later.
func (c *Cluster) RevokeRBAC(ctx context.Context, namespace, account string) error {
	err := c.Client.RbacV1().RoleBindings(namespace).DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("delete the role bindings of %s: %w", namespace, err)
	}
	review := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
		User:               "system:serviceaccount:" + namespace + ":" + account,
		ResourceAttributes: &authorizationv1.ResourceAttributes{Namespace: namespace, Verb: "create", Group: "batch", Resource: "jobs"},
	}}
	return Poll(ctx, 20*time.Millisecond, func() error {
		answer, err := c.Client.AuthorizationV1().SubjectAccessReviews().Create(ctx, review, metav1.CreateOptions{})
		if err == nil && answer.Status.Allowed {
			err = fmt.Errorf("%s may create Jobs still", review.Spec.User)
		}
		return err
	})
}

// BoundAccount names the one service account of the namespace that the Role
// bindings there give something to. That is who the dispatcher is.
func (c *Cluster) BoundAccount(ctx context.Context, namespace string) (string, error) {
	bindings, err := c.Client.RbacV1().RoleBindings(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return "", fmt.Errorf("list role bindings: %w", err)
	}
	account := ""
	for _, binding := range bindings.Items {
		for _, subject := range binding.Subjects {
			if subject.Kind != rbacv1.ServiceAccountKind || account != "" && account != subject.Name {
				return "", fmt.Errorf("role binding %s: want one service account over all bindings, and nobody else", binding.Name)
			}
			account = subject.Name
		}
	}
	if account == "" {
		return "", errors.New("no role binding names a service account")
	}
	return account, nil
}
